// The token goes to the server once; from then on a cookie that no script can read stands for it.
const form = document.getElementById("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = document.getElementById("problem");
  problem.textContent = "";
  const answer = await fetch("/api/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token: document.getElementById("token").value }),
  }).catch(() => null);
  if (answer?.ok) location.href = "/";
  else problem.textContent = answer ? (await answer.json()).detail : "The server does not answer.";
});
