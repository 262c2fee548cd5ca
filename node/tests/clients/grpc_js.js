// The interop cases of gRPC with @grpc/grpc-js.
"use strict";
const assert = require("assert");
const grpc = require("@grpc/grpc-js");

const METHOD = "/conformance.Echo/Any";
const raw = (bytes) => bytes;
const client = new grpc.Client(process.env.CASE_TARGET, grpc.credentials.createInsecure(), {
  "grpc.enable_retries": 0,
});

function told(...more) {
  const metadata = new grpc.Metadata();
  metadata.add("authorization", process.env.CASE_AUTHORIZATION);
  metadata.add("function-id", process.env.CASE_FUNCTION);
  for (const [name, value] of more) metadata.add(name, value);
  return metadata;
}
const MIRROR = ["x-echo-mirror", "1"];
const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

function unary(body, metadata, options = within(20)) {
  return new Promise((resolve) => {
    const seen = {};
    const call = client.makeUnaryRequest(METHOD, raw, raw, body, metadata, options, (error, answer) => {
      Object.assign(seen, { error, answer });
    });
    call.on("metadata", (initial) => (seen.initial = initial));
    call.on("status", (status) => resolve({ ...seen, status }));
  });
}

function collect(call) {
  return new Promise((resolve) => {
    const messages = [];
    let status;
    call.on("data", (message) => messages.push(message));
    call.on("error", () => {});
    call.on("status", (found) => {
      status = found;
      setImmediate(() => resolve({ messages, status }));
    });
  });
}

const cases = {
  async empty_unary() {
    const { answer } = await unary(Buffer.alloc(0), told(MIRROR));
    assert.strictEqual(answer.length, 0);
  },
  async large_unary() {
    const body = Buffer.alloc(1_000_000, "j");
    const { answer } = await unary(body, told(MIRROR));
    assert.ok(answer.equals(body));
  },
  async client_streaming() {
    const answer = await new Promise((resolve, reject) => {
      const call = client.makeClientStreamRequest(METHOD, raw, raw, told(), within(20), (error, found) =>
        error ? reject(error) : resolve(found));
      for (const size of [27182, 8, 1828, 45904]) call.write(Buffer.alloc(size));
      call.end();
    });
    assert.match(answer.toString(), /"length":74942/);
  },
  async server_streaming() {
    const metadata = told(["x-echo-messages", "4"], ["x-echo-size", "31415"]);
    const call = client.makeServerStreamRequest(METHOD, raw, raw, Buffer.alloc(0), metadata, within(20));
    const { messages, status } = await collect(call);
    assert.deepStrictEqual(messages.map((one) => one.length), [31415, 31415, 31415, 31415]);
    assert.strictEqual(status.code, grpc.status.OK);
  },
  async ping_pong() {
    const call = client.makeBidiStreamRequest(METHOD, raw, raw, told(MIRROR), within(20));
    const all = collect(call);
    for (const size of [27182, 8, 1828, 45904]) {
      const echo = new Promise((resolve) => call.once("data", resolve));
      call.write(Buffer.alloc(size));
      assert.strictEqual((await echo).length, size);
    }
    call.end();
    assert.strictEqual((await all).status.code, grpc.status.OK);
  },
  async empty_stream() {
    const call = client.makeBidiStreamRequest(METHOD, raw, raw, told(MIRROR), within(20));
    const all = collect(call);
    call.end();
    const { messages, status } = await all;
    assert.deepStrictEqual([messages.length, status.code], [0, grpc.status.OK]);
  },
  async cancel_after_begin() {
    const call = client.makeBidiStreamRequest(METHOD, raw, raw, told(["x-echo-hold", "1"]), within(20));
    const all = collect(call);
    call.cancel();
    assert.strictEqual((await all).status.code, grpc.status.CANCELLED);
  },
  async cancel_after_first_response() {
    const call = client.makeBidiStreamRequest(METHOD, raw, raw, told(MIRROR), within(20));
    const all = collect(call);
    call.once("data", () => call.cancel());
    call.write(Buffer.from("first"));
    assert.strictEqual((await all).status.code, grpc.status.CANCELLED);
  },
  async deadline() {
    const { status } = await unary(Buffer.alloc(0), told(["x-echo-hold", "1"]), within(0.5));
    assert.strictEqual(status.code, grpc.status.DEADLINE_EXCEEDED);
  },
  async status_with_text() {
    const text = "grpc-message: %09t%C3%A9st with w%C3%96rds %F0%9F%98%88 100%25";
    const metadata = told(["x-echo-trailer", "grpc-status: 2"], ["x-echo-trailer", text]);
    const { status } = await unary(Buffer.alloc(0), metadata);
    assert.strictEqual(status.code, grpc.status.UNKNOWN);
    assert.strictEqual(status.details, "\ttést with wÖrds \u{1f608} 100%");
  },
  async custom_metadata() {
    const { answer, initial, status } = await unary(Buffer.alloc(0), told(
      ["x-echo-header", "x-initial: yes"],
      ["x-echo-trailer", "x-trailing-bin: q6ur"],
      ["x-mine-bin", Buffer.from([0, 255, 16])],
    ));
    assert.deepStrictEqual(initial.get("x-initial"), ["yes"]);
    assert.ok(status.metadata.get("x-trailing-bin")[0].equals(Buffer.from([0xab, 0xab, 0xab])));
    assert.match(answer.toString(), /\["x-mine-bin","AP8Q"\]/);
    assert.strictEqual(initial.get("nvcf-reqid").length, 1);
  },
  async trailers_only() {
    const { status } = await unary(Buffer.alloc(0), told(
      ["x-echo-trailers-only", "1"], ["x-echo-trailer", "grpc-status: 9"], ["x-echo-trailer", "x-why: asked"],
    ));
    assert.strictEqual(status.code, grpc.status.FAILED_PRECONDITION);
    assert.deepStrictEqual(status.metadata.get("x-why"), ["asked"]);
  },
  async unimplemented_method() {
    const { status } = await unary(Buffer.alloc(0), told(
      ["x-echo-trailers-only", "1"], ["x-echo-trailer", "grpc-status: 12"],
    ));
    assert.strictEqual(status.code, grpc.status.UNIMPLEMENTED);
  },
  async fault() {
    const { status } = await unary(Buffer.alloc(0), told(["nvcf-reqid", "67e55044-10b1-426f-9247-bb680e5fe0c8"]));
    assert.strictEqual(status.code, grpc.status.NOT_FOUND);
    assert.strictEqual(status.details, "no existing session found");
  },
};

require("./cases")(cases).then(process.exit);
