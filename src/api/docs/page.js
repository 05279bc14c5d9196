// Shows the document that stands beside this page. What it needs of the document is asked for with the token that somebody types,
// where the daemon wants one; it is kept in this page alone, and goes with it.
"use strict";

const form = document.getElementById("token-form");
const problem = document.getElementById("problem");

function fail(text) {
  problem.textContent = text;
  problem.hidden = false;
}

async function show(token) {
  problem.hidden = true;
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch("openapi.json", { headers });
  const text = await answer.text();
  if (answer.status === 401) {
    form.hidden = false;
    if (token) fail("This token is not good: it is none of this qherd's, or it is revoked or expired. `qherd token create` makes one.");
    return;
  }
  if (!answer.ok) {
    fail(`The document could not be read: ${answer.status} ${text}`);
    return;
  }
  form.hidden = true;
  const ui = SwaggerUIBundle({
    // As it was answered; `url` is what its server is relative to.
    spec: JSON.parse(text),
    url: new URL("openapi.json", location.href).href,
    domNode: document.getElementById("api"),
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    filter: true,
    tryItOutEnabled: true,
    // Nobody else is asked whether the document is valid.
    validatorUrl: null,
    onComplete: () => token && ui.preauthorizeApiKey("bearer", token),
  });
}

function attempt(token) {
  show(token).catch((error) => fail(`The document could not be read: ${error.message}`));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(document.getElementById("token").value.trim());
});
attempt("");
