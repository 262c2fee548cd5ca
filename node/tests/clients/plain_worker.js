// An ordinary HTTP/1.1 and WebSocket server (Node and the `ws` library) that knows nothing of Pontoon: any
// such server can be a worker. Prints one JSON line with its address; ends with its standard input.
"use strict";
const http = require("http");
const { WebSocketServer } = require("ws");

const counts = new Map();

// What was asked, and how often this process was asked in that session.
function report(request, more) {
  const session = request.headers["nvcf-reqid"];
  const count = (counts.get(session) || 0) + 1;
  counts.set(session, count);
  return JSON.stringify({
    method: request.method, url: request.url, headers: request.headers, count, pid: process.pid, ...more,
  });
}

const server = http.createServer((request, answer) => {
  if (request.url === "/health") {
    return answer.end("fine");
  }
  let length = 0;
  request.on("data", (data) => (length += data.length));
  request.on("end", () => {
    answer.setHeader("content-type", "application/json");
    answer.setHeader("x-worker", "plain");
    answer.end(report(request, { length }));
  });
});

const sockets = new WebSocketServer({
  server,
  // Only what a client asks for by `?protocol=`.
  handleProtocols: (offered, request) => {
    const wanted = new URL(request.url, "http://worker").searchParams.get("protocol");
    return offered.has(wanted) ? wanted : false;
  },
});
sockets.on("connection", (socket, request) => {
  socket.send(report(request));
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});

server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ event: "listening", address: `127.0.0.1:${server.address().port}` }));
});
process.stdin.on("end", () => process.exit(0)).resume();
