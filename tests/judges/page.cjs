// Looks at the page at /docs through a browser: `page.cjs URL [BROWSER FOLDER TOKEN]`. NODE_PATH leads to playwright-core.
//
// Both dialects are shown whole, GET /vms is tried and answered with 200, nothing is complained of, and no request goes elsewhere. With
// a token: the browser is one that the daemon does not know.
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const { chromium } = require("playwright-core");

const [url, given, folder, token] = process.argv.slice(2);
const browser = given ?? process.env.PATH.split(":").map((path) => `${path}/chromium`).find(fs.existsSync);
const origin = new URL(url).origin;

async function main() {
  const options = { executablePath: browser, args: ["--no-sandbox"] };
  const context = await chromium.launchPersistentContext(folder ?? "", options);
  const page = await context.newPage();
  const complaints = [];
  const elsewhere = [];
  let refused = 0;
  page.on("console", (message) => {
    // That a token is missing, or none, is what the browser says of the first looks at the document.
    const unknown = message.text().includes("401 (Unauthorized)") && message.location().url.endsWith("/openapi.json");
    if (token && unknown) refused += 1;
    else if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("requestfailed", (request) => complaints.push(`${request.url()}: ${request.failure().errorText}`));
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.origin !== origin && !["data:", "blob:"].includes(to.protocol)) elsewhere.push(request.url());
  });

  const type = async (text) => {
    await page.fill("#token", text);
    await page.click("#token-form button");
  };
  // What `documents` says of a dialect is on the page, and can be tried.
  const look = async (document) => {
    if (token) {
      await type("qherd_0000_none");
      await page.getByText("This token is not good").waitFor();
      await type(token);
    }
    await page.locator(".opblock").first().waitFor();
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const { info, paths } = await (await fetch(`${url}${document}`, { headers })).json();
    const operations = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    const blocks = page.locator(".opblock-summary");
    const shown = await blocks.evaluateAll((all) =>
      all.map((block) => {
        const path = block.querySelector(".opblock-summary-path").dataset.path;
        return `${block.querySelector(".opblock-summary-method").textContent} ${path}`;
      }),
    );
    assert.deepStrictEqual(shown.sort(), operations.sort());
    assert.ok((await page.locator(".info .title").textContent()).startsWith(info.title));
    const block = page.locator(".opblock", { has: page.locator('[data-path="/vms"]') }).filter({ hasText: "GET" }).first();
    await block.locator(".opblock-summary").click();
    // The token is there already, or nobody asks for one.
    await block.locator(".execute").click();
    const row = block.locator(".live-responses-table tr.response");
    await row.waitFor();
    assert.strictEqual((await row.locator(".response-col_status").textContent()).trim(), "200");
    assert.ok(await page.locator(".auth-wrapper .authorize").isVisible());
  };

  await page.goto(`${url}/docs`);
  await look("/openapi.json");
  await page.getByRole("link", { name: "Hyper-V dialect" }).click();
  await page.waitForURL("**/hyperv/docs");
  await look("/hyperv/openapi.json");
  // No script of somebody else's is let in.
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.intruder = true";
    document.body.append(script);
  });
  assert.strictEqual(await page.evaluate(() => window.intruder), undefined);
  assert.ok(complaints.pop().includes("Content Security Policy"), "and the browser says so");

  assert.deepStrictEqual(complaints, []);
  assert.deepStrictEqual(elsewhere, []);
  if (token) assert.strictEqual(refused, 4);
  await context.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
