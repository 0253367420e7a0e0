// A stand-in for Gemini's Live API, which says hello to each turn:
// https://ai.google.dev/api/live. It listens where its argument says.
import { WebSocketServer } from 'ws';

const [host, port] = process.argv[2].split(':');
const path = '/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent';
new WebSocketServer({ host, port: Number(port), path }).on('connection', (socket) => socket.on('message', (b) => {
  const message = JSON.parse(b);
  if (message.setup) socket.send(JSON.stringify({ setupComplete: {} }));
  if (message.clientContent) socket.send(JSON.stringify({ serverContent: { modelTurn: { role: 'model', parts: [{ text: 'hello, live' }] }, turnComplete: true } }));
}));
