// Calls to the server. The session's cookie opens nothing without the proof
// that only pages of this origin can read.
const PROOF = 'till-proof';
let proof = localStorage.getItem(PROOF) || '';

// Failure is an answer that is not a success. Its sentence says what to do.
export class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    this.name = 'Failure';
    this.status = status;
    this.code = code;
  }
  get sentence() {
    const text = this.message ? this.message[0].toUpperCase() + this.message.slice(1).replace(/\.?$/, '.') : '';
    if (this.code === 'forbidden') return 'You are not permitted to do this. ' + text;
    if (this.missing) return 'This server does not offer this.';
    return text;
  }
  // missing says that the server has no such call, because it is another version.
  get missing() { return (this.status === 404 && this.message.startsWith('there is nothing at ')) || this.status === 405; }
}

// away is the failure of a call that got no answer.
export const away = () => new Failure(0, 'unreachable', 'there is no answer from the server: it is not running, or this browser is offline');

async function send(method, url, { body, signal, headers } = {}) {
  let answer;
  const shown = proof;
  try {
    answer = await fetch(url, {
      method, signal, cache: 'no-store', redirect: 'error', credentials: 'same-origin',
      headers: { 'Till-Proof': shown, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw away();
  }
  if (answer.ok) return answer;
  let error = {};
  try { error = (await answer.json()).error || {}; } catch { /* not an error of till: there is only the status */ }
  // Somebody may have signed in meanwhile, which ended the session that this was for.
  if (answer.status === 401 && !url.endsWith('/session') && shown === proof) document.dispatchEvent(new Event('signedout'));
  throw new Failure(answer.status, error.code || '', error.message || 'the server answered ' + answer.status);
}

const json = async (answer) => (answer.status === 204 ? null : answer.json());
const query = (q) => {
  const set = Object.entries(q || {}).filter(([, v]) => v !== undefined && v !== '' && v !== null);
  return set.length ? '?' + new URLSearchParams(set) : '';
};

const LATE = 30000; // ms after which a read is given up

// read gives up what a server does not answer: a page that waits for ever shows what is old
// as if it were new.
async function read(url, signal) {
  const over = new AbortController(), end = () => over.abort(), timer = setTimeout(end, LATE);
  if (signal?.aborted) end();
  signal?.addEventListener('abort', end, { once: true });
  try {
    return await json(await send('GET', url, { signal: over.signal }));
  } catch (e) {
    throw over.signal.aborted && !signal?.aborted ? new Failure(0, 'unreachable', `the server has not answered for ${LATE / 1000} seconds`) : e;
  } finally { clearTimeout(timer); signal?.removeEventListener('abort', end); } // a signal can outlive very many reads
}

const base = '/till/api/';
export const get = (path, q, signal) => read(base + path + query(q), signal);
// patiently reads what may take a server very long.
export const patiently = async (path, signal) => json(await send('GET', base + path, { signal }));
// all follows the pages of a list to its end.
export async function all(path, of, signal) {
  const found = [];
  for (let cursor = ''; ;) {
    const page = await get(path, { cursor, limit: 500 }, signal);
    found.push(...(page[of] || []));
    if (!page.next) return found;
    cursor = page.next;
  }
}
export const post = async (path, body, options) => json(await send('POST', base + path, { body: body || {}, ...options }));
// doneOnce makes the options of a post that is done once, although somebody tries again
// because its answer was lost. Another body is another call.
export function doneOnce() {
  const id = crypto.randomUUID();
  let last, turn = 0;
  return (body) => {
    const text = JSON.stringify(body);
    if (text !== last) { last = text; turn += 1; }
    return { headers: { 'Idempotency-Key': `${id}-${turn}` } };
  };
}
export const patch = async (path, body, version) => json(await send('PATCH', base + path, { body, headers: version ? { 'If-Match': `"${version}"` } : {} }));
export const remove = async (path, signal) => json(await send('DELETE', base + path, { signal }));

const session = '/till/session';
// whoami is null when nobody is signed in.
export const whoami = () => read(session);
export async function signIn(shown) {
  const me = await json(await send('POST', session, { body: shown }));
  proof = me.proof;
  delete me.proof;
  localStorage.setItem(PROOF, proof);
  return me;
}
export async function signOut() {
  await send('DELETE', session);
  forget();
}
export function forget() {
  proof = '';
  localStorage.removeItem(PROOF);
}
// Another tab has signed in or out. Its cookie is this tab's, too, so who signed in there
// acts here.
addEventListener('storage', (e) => {
  if (e.key !== PROOF) return;
  proof = e.newValue || '';
  document.dispatchEvent(new Event(proof ? 'signedin' : 'signedout'));
});

// events reads the server's events until signal ends, and calls f with each.
export async function events(signal, f, opened) {
  const answer = await send('GET', base + 'events', { signal, headers: { Accept: 'text/event-stream' } });
  if (opened) opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value.replaceAll('\r', '');
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      const event = { name: 'message', data: '' };
      for (const line of text.slice(0, end).split('\n')) {
        if (line.startsWith('event:')) event.name = line.slice(6).trim();
        if (line.startsWith('data:')) event.data += line.slice(5).trim();
        if (line.startsWith('id:')) event.id = line.slice(3).trim();
      }
      if (event.data) try { f(event.name, JSON.parse(event.data), event.id); } catch { /* not for us */ }
    }
  }
}
