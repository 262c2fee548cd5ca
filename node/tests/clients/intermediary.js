// Many users behind one intermediary that adds key and function: each is told apart by what it sends.
"use strict";
const assert = require("assert");
const http = require("http");
const WebSocket = require("ws");

const [host, port] = process.env.CASE_TARGET.split(":");
const one = new http.Agent({ keepAlive: true, maxSockets: 1 });

// A plain call through the intermediary, without a key: the id and the cookie of the answer.
function call(headers = {}, agent = undefined) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, path: "/user", method: "GET", headers, agent }, (answer) => {
      let body = "";
      answer.on("data", (data) => (body += data));
      answer.on("end", () => resolve({
        status: answer.statusCode, id: answer.headers["nvcf-reqid"], body,
        cookie: (answer.headers["set-cookie"] || []).map((one) => one.split(";")[0])[0],
      }));
    });
    request.on("error", reject);
    request.end();
  });
}

function socket() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${host}:${port}/user`);
    let id;
    socket.on("upgrade", (answer) => (id = answer.headers["nvcf-reqid"]));
    socket.on("error", reject);
    socket.once("message", () => resolve({ socket, id }));
  });
}

const cases = {
  async plain_calls_with_one_key_and_no_id_share_a_session() {
    const [first, second] = [await call({}, one), await call({}, one)];
    assert.deepStrictEqual([first.status, second.status], [200, 200]);
    assert.strictEqual(second.id, first.id);
  },
  async two_websockets_are_two_users() {
    const [first, second] = [await socket(), await socket()];
    assert.ok(first.id && second.id && first.id !== second.id, `${first.id} ${second.id}`);
    first.socket.terminate();
    second.socket.terminate();
  },
  async an_id_and_a_cookie_tell_users_apart_on_one_connection() {
    const post = (headers) => new Promise((resolve, reject) => {
      const request = http.request({ host, port, path: "/", method: "POST", headers, agent: one }, (answer) => {
        answer.resume();
        answer.on("end", () => resolve(answer.headers["nvcf-reqid"]));
      });
      request.on("error", reject);
      request.end();
    });
    const absorb = { "x-nvcf-absorb": "true", "content-length": "0" };
    const [first, second] = [await post(absorb), await post(absorb)];
    assert.ok(first && second && first !== second);
    assert.strictEqual((await call({ "nvcf-reqid": first }, one)).id, first);
    assert.strictEqual((await call({ cookie: `nvcf-request-id=${second}` }, one)).id, second);
  },
  async users_with_keys_of_their_own_have_sessions_of_their_own() {
    if (!process.env.CASE_OTHER_KEY) return;
    const own = { authorization: `Bearer ${process.env.CASE_OTHER_KEY}` };
    const [site, user, again] = [await call({}, one), await call(own, one), await call(own, one)];
    assert.strictEqual(user.status, 200);
    assert.notStrictEqual(user.id, site.id);
    assert.strictEqual(again.id, user.id);
  },
  async a_users_own_key_is_not_replaced() {
    const refused = await call({ authorization: "Bearer wrong" }, one);
    assert.strictEqual(refused.status, 401);
  },
};

require("./cases")(cases).then(process.exit);
