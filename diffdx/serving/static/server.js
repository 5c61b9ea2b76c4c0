// The REST interface as functions. An answer that is no success is thrown as an Error.

export async function getJson(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer; it may have been stopped.");
  }
  if (answer.status === 401) location.href = "/login";
  if (answer.status === 204) return null;
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.detail);
  return said;
}

export function classify(file) {
  // Neither the file's name nor its type is sent: its content says what it is.
  const headers = { "content-type": "application/octet-stream" };
  return getJson("/api/classify", { method: "POST", headers, body: file });
}

export function explain(request) {
  const headers = { "content-type": "application/json" };
  return getJson("/api/explain", { method: "POST", headers, body: JSON.stringify(request) });
}

export function forget(job) {
  return getJson(`/api/jobs/${job.id}`, { method: "DELETE" }).catch(() => null);
}

// Tells every event of a job; returns the job once it is done.
export async function follow(job, tell, signal) {
  const answer = await fetch(`/api/jobs/${job.id}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: ")) tell(JSON.parse(block.slice(6)));
  }
  const ended = await getJson(`/api/jobs/${job.id}`, { signal });
  if (ended.state === "failed") throw new Error(ended.error.message);
  if (ended.state !== "done") throw new Error("The job was cancelled.");
  return ended;
}
