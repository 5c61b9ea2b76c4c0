// One image at a time: sent, followed while the votes come in, answered, turned into another class.
import { VoteChart, drawBars, drawNoise } from "./charts.js";
import * as server from "./server.js";
import { Viewer } from "./viewer.js";

const at = (id) => document.getElementById(id);
const model = await server.getJson("/api/model");
const viewer = new Viewer(model);
let current = null; // the classification that is shown
let following = null; // stops listening

function say(text) {
  at("progress").hidden = !text;
  at("status").textContent = text;
}

async function start(file) {
  await leave();
  at("problem").textContent = "";
  const room = model.upload_bytes / 2 ** 20;
  if (file.size > model.upload_bytes) return fail(`The file is larger than ${room} MiB.`);
  say("Sending the image …");
  const mine = (following = new AbortController());
  try {
    current = await server.classify(file);
    if (mine.signal.aborted) return void server.forget(current);
    at("case").hidden = false;
    viewer.preview(file);
    const chart = new VoteChart(at("vote-chart"), model);
    at("bars").replaceChildren();
    const done = await server.follow(current, (event) => live(event, chart), mine.signal);
    say("");
    answer(done, chart);
  } catch (error) {
    if (!mine.signal.aborted) fail(error.message);
  }
}

function live(event, chart) {
  if (event.state === "running") say("The first trials are running …");
  if (!event.won) return;
  chart.add(event.won);
  drawBars(at("bars"), model.classes, event);
  const votes = model.classes.map((name, k) => `${name} ${+event.votes[k].toFixed(1)}`).join(", ");
  say(`${event.trials} of at most ${event.total} trials: ${votes}`);
}

function fail(message) {
  say("");
  if (!at("answer").hidden || !current) return void (at("problem").textContent = message);
  at("case").hidden = true;
  at("problem").textContent = message;
}

async function leave() {
  following?.abort();
  following = null;
  for (const id of ["case", "answer", "noise", "explain", "actions", "gallery"]) at(id).hidden = true;
  for (const id of ["explain-status", "explain-caption"]) at(id).textContent = "";
  viewer.clear();
  say("");
  const former = current;
  current = null;
  if (former) await server.forget(former);
}

function percent(share) {
  if (share > 0.999 && share < 1) return "over 99.9%";
  if (share < 0.001 && share > 0) return "under 0.1%";
  return `${+(100 * share).toFixed(1)}%`;
}

const ANSWERS = {
  "rule-in": "Rule in",
  "rule-out": "Rule out",
  answer: "Answer",
  refer: "Refer to a reader",
};

function answer(job, chart) {
  const said = job.result;
  at("answer").hidden = at("noise").hidden = at("explain").hidden = at("actions").hidden = false;
  at("prediction").textContent = said.prediction;
  at("probability").textContent = said.prob
    ? `probability ${percent(said.prob[said.prediction])}`
    : "no probability: the model is not calibrated for this way of stopping";
  const stopped = said.stopped_by !== "none";
  facts([
    ["Triage", ANSWERS[said.triage] ?? "not calibrated"],
    [
      "Conformal set",
      said.set === "{}" ? "{ }" : (said.set ?? "not calibrated"),
      said.set === "{}"
        ? "no class fits: refer"
        : said.set && `holds the truth in ${percent(1 - model.alpha)} of such images`,
    ],
    [
      "Votes for it",
      percent(said.vote_share[said.prediction]),
      said.share_low !== null && `all trials: ${percent(said.share_low)} to ${percent(said.share_high)}`,
    ],
    ["Entropy", `${said.entropy_bits.toFixed(2)} bits`, `0 to ${+Math.log2(model.classes.length).toFixed(2)}`],
    ["Trials", `${said.trials_used} of ${model.trials}`, stopped ? "stopped: the vote was decided" : "all of them"],
    ["Cost", `${said.nfe} network calls`, `${said.seconds.toFixed(1)} s`],
  ]);
  cautions(said);
  chart.end(stopped ? `Stopped after ${said.trials_used} trials.` : "All trials were run.");
  drawNoise(at("noise-chart"), model.classes, said.by_noise_level);
  noiseTable(said.by_noise_level);
  viewer.show(job);
  at("download").href = job.archive;
  const target = at("target");
  const others = model.classes.filter((name) => name !== said.prediction);
  target.replaceChildren(...[...others, said.prediction].map((name) => new Option(name, name)));
  at("status").textContent = `${said.prediction}, ${at("probability").textContent}`;
}

function facts(rows) {
  const parts = rows.map(([name, value, more]) => {
    const group = document.createElement("div");
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    if (more) {
      const small = document.createElement("small");
      small.textContent = more;
      dd.append(small);
    }
    group.append(dt, dd);
    return group;
  });
  at("facts").replaceChildren(...parts);
}

function cautions(said) {
  const texts = [said.caution, ...said.warnings];
  if (said.ood) texts.unshift("This image is unlike the calibration images: do not rely on the answer.");
  if (!said.vote_agrees) texts.push("The evidence map shows the mean error, which leans the other way than the vote.");
  const lines = texts.filter(Boolean).map((text) => {
    const line = document.createElement("p");
    line.className = "caution";
    line.textContent = text;
    return line;
  });
  at("cautions").replaceChildren(...lines);
}

function noiseTable(levels) {
  const table = at("noise-table");
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  for (const name of ["log-SNR", "trials", ...model.classes, "entropy, bits"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const level of levels) {
    const row = body.insertRow();
    const shares = model.classes.map((name) => percent(level.vote_share[name]));
    const cells = [level.logsnr.toFixed(2), level.trials, ...shares, level.entropy_bits.toFixed(2)];
    for (const text of cells) row.insertCell().textContent = text;
  }
}

async function makeCounterfactual(event) {
  event.preventDefault();
  const of = current;
  at("make").disabled = true;
  at("explain-status").textContent = "Waiting for the model …";
  try {
    const job = await server.explain({
      job: of.id,
      target: at("target").value,
      logsnr_start: Number(at("level").value),
      guidance_scale: Number(at("guidance").value),
    });
    const done = await server.follow(
      job,
      (said) => said.calls && (at("explain-status").textContent = `${said.calls} network calls …`),
      following.signal,
    );
    if (current !== of) return;
    at("explain-status").textContent = "";
    showCounterfactual(done);
  } catch (error) {
    if (current === of) at("explain-status").textContent = error.message;
  } finally {
    at("make").disabled = false;
  }
}

function showCounterfactual(job) {
  const said = job.result;
  const captions = {
    factual: `denoised as ${said.source}`,
    counterfactual: `denoised as ${said.target}`,
    difference: "difference: red brighter, blue darker",
    evidence: `evidence: red for ${said.source}, blue for ${said.target}`,
  };
  const figures = Object.entries(captions).map(([name, caption]) => {
    const [figure, image, text] = ["figure", "img", "figcaption"].map((tag) => document.createElement(tag));
    image.src = job.pictures[name];
    image.alt = "";
    text.textContent = caption;
    figure.append(image, text);
    return figure;
  });
  at("gallery").replaceChildren(...figures);
  at("gallery").hidden = false;
  const share = percent(said.vote_share_cf[said.prediction_cf]);
  at("explain-caption").textContent =
    `The model itself calls the result ${said.prediction_cf} (${share} of the votes). Mean change ` +
    `${said.mean_change.toFixed(3)} of an image range of 2; noising and denoising alone change ` +
    `${said.mean_null_edit.toFixed(3)}. ${said.nfe} network calls, ${said.seconds.toFixed(1)} s.`;
  at("download").href = job.archive;
  viewer.showEdit(job);
}

function slider(id, show) {
  const tell = () => (at(`${id}-out`).textContent = show(Number(at(id).value)));
  at(id).addEventListener("input", tell);
  tell();
}

const { edit } = model;
at("level").min = Math.max(edit.lowest, edit.logsnr_start - 4);
at("level").max = Math.min(edit.highest - 0.25, edit.logsnr_start + 4);
// Right is more noise, which is a lower log-SNR.
at("level").style.direction = "rtl";
at("level").value = edit.logsnr_start;
at("guidance").max = Math.min(edit.max_guidance, 10);
at("guidance").value = edit.guidance_scale;
slider("level", (value) => value);
slider("guidance", (value) => value);
const stop = Number(model.stop);
at("rule").textContent = model.boundary
  ? stop
    ? `Beyond the dashed line it is decided: all ${model.trials} trials would differ in at most ${100 * stop}% of cases.`
    : `Beyond the dashed line it is decided: the rest of the ${model.trials} trials cannot change it.`
  : `At most ${model.trials} trials.`;

at("file").addEventListener("change", () => at("file").files[0] && start(at("file").files[0]));
at("file").addEventListener("click", () => (at("file").value = ""));
at("cancel").addEventListener("click", leave);
at("forget").addEventListener("click", leave);
at("print").addEventListener("click", () => print());
at("explain-form").addEventListener("submit", makeCounterfactual);
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", () => document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) start(event.dataTransfer.files[0]);
});
document.body.dataset.ready = "yes";
