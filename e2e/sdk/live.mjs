// Talks to Gemini's Live API at $TILL.
import { GoogleGenAI } from '@google/genai';

const { TILL, KEY } = process.env;
const ai = new GoogleGenAI({ apiKey: KEY, httpOptions: { baseUrl: TILL } });
// The SDK waits for ever for a connection that is refused, and tells this alone.
const fails = (e) => {
  console.error(e.message);
  process.exit(1);
};
const session = await ai.live.connect({
  model: 'gemini-live-2.5-flash-preview',
  config: { responseModalities: ['TEXT'] },
  callbacks: {
    onerror: fails,
    onmessage: (m) => {
      if (!m.serverContent?.turnComplete) return;
      console.log(m.serverContent.modelTurn.parts[0].text);
      session.close();
    },
  },
});
session.sendClientContent({ turns: 'hi' });
