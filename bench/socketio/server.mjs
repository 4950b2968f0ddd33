// Socket.IO as one node of a cluster: every client joins the room of its handshake, and publications come from Redis by the adapter.
// Configured as its own page on performance and memory advises: WebSocket only, no client files, no kept requests.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [host, port, redis, deflate] = process.argv.slice(2);
const publisher = createClient({ url: redis });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer();
const io = new Server(server, {
  adapter: createAdapter(publisher, subscriber),
  serveClient: false,
  transports: ["websocket"],
  perMessageDeflate: deflate ? { threshold: 512 } : false,
});
io.engine.on("connection", (raw) => {
  raw.room = raw.request._query.room;
  raw.request = null;
});
io.on("connection", (socket) => socket.join(socket.conn.room));
server.listen({ host, port: Number(port), backlog: 4096 });
