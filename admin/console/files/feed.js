// The server's events, as they happen. A page follows them only while it is visible,
// because browsers open few connections to one server, for all tabs together.
import * as api from './api.js';

// follow calls heard with each event until signal ends, and connects again if it
// has to. It calls state with 'open', 'gone', or the reason why it gave up.
export async function follow(signal, heard, state = () => {}) {
  for (let wait = 1; !signal.aborted;) {
    if (document.hidden) { await next(document, 'visibilitychange', signal); continue; }
    const turn = new AbortController(), stop = () => turn.abort(), hide = () => document.hidden && stop();
    signal.addEventListener('abort', stop);
    document.addEventListener('visibilitychange', hide);
    try {
      await api.events(turn.signal, heard, () => { wait = 1; state('open'); });
    } catch (e) {
      if (e.status === 401 || e.status === 403 || e.missing) { state(e.sentence); return; }
    } finally {
      signal.removeEventListener('abort', stop);
      document.removeEventListener('visibilitychange', hide);
    }
    if (signal.aborted || document.hidden) continue;
    state('gone');
    await Promise.race([new Promise((resolve) => setTimeout(resolve, wait * 1000)), next(signal, 'abort', signal)]);
    wait = Math.min(wait * 2, 30);
  }
}

const next = (target, event, signal) => new Promise((resolve) => {
  target.addEventListener(event, resolve, { once: true });
  signal.addEventListener('abort', resolve, { once: true });
});
