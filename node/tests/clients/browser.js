// Headless Chromium: WebSockets from a page, the cookie after a reload, preflights, gRPC-Web by fetch.
"use strict";
const assert = require("assert");
const http = require("http");
const { chromium } = require("playwright-core");

const target = process.env.CASE_TARGET;
const ours = [`authorization.${process.env.CASE_KEY}`, `function-id.${process.env.CASE_FUNCTION}`];
const keys = { authorization: process.env.CASE_AUTHORIZATION, "function-id": process.env.CASE_FUNCTION };

// Runs in the page: the worker's first message and the selected protocol.
const socket = ({ url, protocols, say }) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols);
    const heard = [];
    socket.onerror = () => reject(new Error("the WebSocket failed"));
    socket.onopen = () => say && socket.send(say);
    socket.onmessage = ({ data }) => {
      heard.push(data);
      if (heard.length < (say ? 2 : 1)) return;
      socket.close();
      const report = JSON.parse(heard[0]);
      const id = report.headers.find(([name]) => name === "nvcf-reqid")[1];
      resolve({ protocol: socket.protocol, id, echo: heard[1] });
    };
  });

(async () => {
  // The page's own origin, on loopback: the proxy is another origin to it.
  const pages = http.createServer((_, answer) => answer.writeHead(200, { "content-type": "text/html" }).end("<p>page</p>"));
  await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve));
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
  const page = await browser.newPage();
  const origin = `http://127.0.0.1:${pages.address().port}`;
  await page.goto(origin);
  const url = `ws://${target}/chat`;
  const cases = {
    async websocket_with_protocol_credentials() {
      const seen = await page.evaluate(socket, { url, protocols: ours, say: "hello" });
      assert.deepStrictEqual([seen.protocol, seen.echo], [ours[1], "hello"]);
    },
    async the_cookie_resumes_after_a_reload() {
      const first = await page.evaluate(socket, { url, protocols: ours });
      await page.reload();
      const second = await page.evaluate(socket, { url, protocols: ours });
      assert.strictEqual(second.id, first.id);
    },
    async a_preflight_and_a_readable_fault() {
      const seen = await page.evaluate(async ({ target, keys }) => {
        const wrong = { ...keys, authorization: "Bearer wrong", "content-type": "application/json" };
        const answer = await fetch(`http://${target}/page`, { method: "POST", headers: wrong, body: "{}" });
        return [answer.status, await answer.text()];
      }, { target, keys });
      assert.strictEqual(seen[0], 401);
      assert.match(seen[1], /^invalid credential/);
    },
    async an_answer_that_the_worker_allows() {
      const seen = await page.evaluate(async ({ target, keys, origin }) => {
        const allow = { "x-echo-header": `access-control-allow-origin: ${origin}` };
        const answer = await fetch(`http://${target}/page`, { method: "POST", headers: { ...keys, ...allow }, body: "{}" });
        return { status: answer.status, id: answer.headers.get("nvcf-reqid") };
      }, { target, keys, origin });
      assert.strictEqual(seen.status, 200);
      assert.ok(seen.id, "C-COR-2: a page can read the id");
    },
    async grpc_web_by_fetch() {
      const seen = await page.evaluate(async ({ target, keys, origin }) => {
        const headers = {
          ...keys, "content-type": "application/grpc-web+proto", "x-grpc-web": "1",
          "x-echo-header": `access-control-allow-origin: ${origin}`,
        };
        const body = new Uint8Array([0, 0, 0, 0, 2, 104, 105]);
        const answer = await fetch(`http://${target}/conformance.Echo/Any`, { method: "POST", headers, body });
        const bytes = new Uint8Array(await answer.arrayBuffer());
        const length = new DataView(bytes.buffer).getUint32(1);
        const last = bytes.slice(5 + length);
        return { flag: last[0], trailers: new TextDecoder().decode(last.slice(5)) };
      }, { target, keys, origin });
      assert.strictEqual(seen.flag, 0x80);
      assert.match(seen.trailers, /grpc-status:0/);
    },
  };
  const code = await require("./cases")(cases);
  await browser.close();
  pages.close();
  process.exit(code);
})();
