// WebSockets with the `ws` library: credentials and ids in the protocol list, a browser's only place.
"use strict";
const assert = require("assert");
const WebSocket = require("ws");

const url = `ws://${process.env.CASE_TARGET}/chat`;
const ours = [`authorization.${process.env.CASE_KEY}`, `function-id.${process.env.CASE_FUNCTION}`];

// Opens one; gives the socket, the head of the 101 and the worker's report of the handshake.
function open(protocols, path = "", options = {}) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url + path, protocols, { handshakeTimeout: 20000, ...options });
    let head;
    socket.on("upgrade", (response) => (head = response.headers));
    socket.on("unexpected-response", (_, response) => reject(Object.assign(new Error("refused"), { status: response.statusCode })));
    socket.on("error", reject);
    socket.once("message", (data) => resolve({ socket, head, report: JSON.parse(data.toString()) }));
  });
}

const cases = {
  async credentials_in_the_protocol_list() {
    const { socket, head } = await open(ours);
    assert.strictEqual(socket.protocol, ours[1]);
    assert.ok(head["nvcf-reqid"]);
    const echo = new Promise((resolve) => socket.once("message", resolve));
    socket.send("hello");
    assert.strictEqual((await echo).toString(), "hello");
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.close(1000);
    assert.strictEqual(await closed, 1000);
  },
  async resume_by_protocol_item() {
    const first = await open(ours);
    const id = first.head["nvcf-reqid"];
    first.socket.terminate();
    const second = await open([...ours, `nvcf-reqid.${id}`]);
    assert.strictEqual(second.head["nvcf-reqid"], id);
    second.socket.terminate();
  },
  async the_workers_protocol_is_selected() {
    const { socket } = await open([...ours, "chat.v2"], "?protocol=chat.v2");
    assert.strictEqual(socket.protocol, "chat.v2");
    socket.terminate();
  },
  async a_large_message() {
    const { socket } = await open(ours);
    const body = Buffer.alloc(5_000_000, "w");
    const echo = new Promise((resolve) => socket.once("message", resolve));
    socket.send(body);
    assert.ok((await echo).equals(body));
    socket.terminate();
  },
  async a_ping_is_answered_by_the_worker() {
    const { socket } = await open(ours);
    const pong = new Promise((resolve) => socket.once("pong", resolve));
    socket.ping("there?");
    assert.strictEqual((await pong).toString(), "there?");
    socket.terminate();
  },
  async a_refusal_is_a_status() {
    const gone = "nvcf-reqid.67e55044-10b1-426f-9247-bb680e5fe0c8";
    await assert.rejects(open([...ours, gone]), { status: 404 });
    await assert.rejects(open(["authorization.no", ours[1]]), { status: 401 });
  },
};

require("./cases")(cases).then(process.exit);
