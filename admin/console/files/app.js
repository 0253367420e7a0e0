// The frame around the pages: who is signed in, which page is open, and whether
// the server is in order.
import * as api from './api.js';
import { ask, every, field, h, newSeat, note, problem, put, say, seat, sentence, time, toTitle } from './dom.js';
import { keysPage } from './keys.js';

// All pages but the first are loaded when they are opened.
const pages = [
  [/^keys$/, async () => keysPage],
  [/^keys\/(key_\w+)$/, async () => (await import('./key.js')).keyPage],
  [/^mint$/, async () => (await import('./mint.js')).mintPage],
  [/^estate$/, async () => (await import('./estate.js')).estatePage],
  [/^activity$/, async () => (await import('./activity.js')).activityPage],
  [/^access$/, async () => (await import('./access.js')).accessPage],
];
const loaded = async (load) => {
  try { return await load(); } catch (e) { throw e instanceof TypeError ? api.away() : e; } // what a browser calls a file that does not come
};

const main = document.getElementById('main');
const top = document.getElementById('top');
const banners = [h('div'), h('div'), h('div')]; // a lockdown, a closed store, a page that is out of date
document.getElementById('notice').append(...banners);
let me = null;
let leave = new AbortController();

// may reports whether the caller's role has a permission.
const may = (p) => me.permissions.includes('*') || me.permissions.includes(p);

// go opens a page: go('keys', {status: 'active'}).
export function go(path, q) {
  const set = Object.entries(q || {}).filter(([, v]) => v);
  location.hash = '#/' + path + (set.length ? '?' + new URLSearchParams(set) : '');
}

async function open() {
  if (!me) return;
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  behind(null);
  let [path, text = ''] = location.hash.replace(/^#\/?/, '').split('?');
  path ||= 'keys';
  for (const a of top.querySelectorAll('nav a')) {
    if (path.split('/')[0] === a.dataset.page) a.setAttribute('aria-current', 'page'); else a.removeAttribute('aria-current');
  }
  for (const [pattern, load] of pages) {
    const match = pattern.exec(path);
    if (!match) continue;
    try {
      const page = await loaded(load);
      if (!signal.aborted) await page({ main, signal, me, may, go, behind: (e) => { if (!signal.aborted) behind(e); }, id: match[1], q: Object.fromEntries(new URLSearchParams(text)) });
    } catch (e) {
      if (e.name !== 'AbortError' && !signal.aborted) put(main, problem(e, open));
    }
    if (!signal.aborted) arrived();
    return;
  }
  put(main, h('h1', { tabindex: '-1' }, 'There is no such page'), h('p', {}, h('a', { href: '#/keys' }, 'All keys')));
  arrived();
}

let first = true;

// arrived names the open page to screen readers and in the tab.
function arrived() {
  const title = main.querySelector('h1');
  document.title = (title ? title.textContent + ' · ' : '') + 'till';
  if (!first && !main.contains(document.activeElement)) toTitle();
  first = false;
}

function frame() {
  const link = (page, name) => h('a', { href: '#/' + page, 'data-page': page }, name);
  top.hidden = false;
  put(top, h('a', { class: 'brand', href: '#/keys', 'aria-label': 'till, all keys' }, h('img', { src: '/till/assets/icon.svg', alt: '', width: 24, height: 24 }), 'till'),
    h('nav', { 'aria-label': 'Main' }, link('keys', 'Keys'), link('estate', 'Estate'), link('activity', 'Activity'), link('access', 'Access')),
    h('div', { class: 'who' },
      h('span', { class: 'faint name', title: 'Role ' + me.role }, me.name),
      may('*') && h('button', { type: 'button', class: 'small danger-text', id: 'lock', onclick: lock }, 'Lock down'),
      h('button', { type: 'button', class: 'small quiet', onclick: signOut }, 'Sign out')));
}

// refused says who refuses every key in a lockdown, and for how long.
function refused(l) {
  const on = (l.pending || []).join(', ');
  if (l.durable !== false) return 'Every key is refused.' + (on && ` Not yet known to ${on}, where nothing is admitted.`);
  return 'This server refuses every key, ' + (on ? `but it is NOT known to ${on}, where keys may still work. Lock down at a server that has the database.` : 'but only from memory as yet: a restart of it would end the lockdown.');
}

// Why what is shown is out of date is known by the look of watch (away), or by the page
// itself (late).
let seen = { locked: null, closed: '', away: '', late: '' }, looks = 0;

// behind shows that the open page could not be read again, and why, until it was: e is null.
function behind(e) {
  const late = e ? sentence(e) : '';
  if (late !== seen.late) { seen.late = late; tell(); }
}

// watch shows what every page has to show: a lockdown, a store that has failed, and
// a server that does not answer, or not as it should, which says nothing about the keys.
async function watch() {
  let { locked, closed } = seen, away = '';
  const signal = seat(), mine = ++looks;
  try {
    locked = await api.get('lockdown', null, signal);
    closed = (await api.get('stats', null, signal)).store_failure;
  } catch (e) {
    if (e.name === 'AbortError') return;
    if (e.status === 503 && e.code) closed = e.sentence; else away = sentence(e); // a proxy's 503 has no code
  }
  if (signal.aborted || mine !== looks) return;
  if (locked && !locked.locked_down) locked = null;
  seen = { ...seen, locked, closed, away };
  tell();
}

function tell() {
  const { locked, closed } = seen, old = seen.away || (!closed && seen.late);
  const lockButton = document.getElementById('lock');
  if (lockButton) {
    if (locked && lockButton === document.activeElement) toTitle();
    lockButton.hidden = Boolean(locked);
  }
  show(0, [locked, may('*')], locked && h('div', { class: 'banner bad', role: 'alert' }, h('p', {}, h('strong', {}, 'Locked down'), locked.since ? [' ', time(locked.since)] : '', locked.by && ` by ${locked.by}`, locked.reason ? ': ' + locked.reason : '', '. ', refused(locked)), may('*') && h('button', { type: 'button', class: 'small', onclick: unlock }, 'Lift the lockdown')));
  show(1, closed, closed && h('div', { class: 'banner bad', role: 'alert' }, h('p', {}, h('strong', {}, 'The store is closed, and every key is refused. '), closed)));
  show(2, old, old && h('div', { class: 'banner', role: 'alert' }, h('p', {}, h('strong', {}, 'This page is out of date. '), old, ' Trying again.')));
}

// show draws a banner anew only if it says something else, because screen readers read what
// is drawn anew.
function show(i, says, banner) {
  const el = banners[i], key = JSON.stringify([says]), had = el.contains(document.activeElement);
  if (el.dataset.key === key) return;
  el.dataset.key = key;
  put(el, banner);
  if (had) { const button = el.querySelector('button'); if (button) button.focus(); else toTitle(); }
}

async function lock() {
  const why = h('input', { type: 'text', maxlength: 200, autocomplete: 'off' });
  const done = await ask({
    title: 'Lock down every key?', button: 'Lock down', busy: 'Locking down…', danger: true,
    body: [h('p', {}, 'Every key is refused at once and running streams are cut, until the lockdown is lifted. This works while the store is closed, too, and survives a restart unless this page says otherwise. It ends no key.'),
      field('Reason', 'Shown in the audit log and in the refusals.', why)],
    act: () => api.post('lockdown', { reason: why.value }),
  });
  if (done) { say('Locked down. ' + refused(done.done), done.done.durable === false); await watch(); }
}

async function unlock() {
  const done = await ask({
    title: 'Lift the lockdown?', button: 'Lift the lockdown', busy: 'Lifting…',
    body: h('p', {}, 'Keys work again as they did before, with what they had left.'),
    act: () => api.remove('lockdown'),
  });
  if (done) { say('The lockdown is lifted.'); await watch(); }
}

async function signOut() {
  try { await api.signOut(); } catch (e) {
    if (e.status !== 401) { say(e.sentence, true); return; }
    api.forget();
  }
  signInPage('You are signed out.');
  lost = false; // whoever signs out drops it
}

let lost = false; // a string that was shown once has gone, and nobody has been told yet

// vacate ends what is shown or under way for whoever was signed in.
function vacate() {
  lost ||= Boolean(document.querySelector('.once'));
  leave.abort();
  newSeat();
  put(main, h('p', { class: 'wait' }, 'Opening the console…'));
}

function signInPage(why, bad) {
  vacate();
  me = null;
  top.hidden = true;
  for (const i of banners.keys()) show(i, '');
  seen.late = '';
  const input = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true, placeholder: 'till_admin_…' });
  const button = h('button', { type: 'submit', class: 'primary' }, 'Sign in');
  const wrong = h('div', { 'aria-live': 'assertive' }, why && h('p', { class: bad ? 'problem' : 'hint' }, why));
  const enter = async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    put(button, 'Signing in…');
    try { await begin(await api.signIn({ token: input.value.trim() })); } catch (e) {
      put(wrong, problem(e));
      button.disabled = false;
      put(button, 'Sign in');
      input.select();
    }
  };
  put(main, h('div', { class: 'signin' }, h('img', { src: '/till/assets/icon.svg', alt: '', width: 48, height: 48 }),
    h('h1', { tabindex: '-1' }, 'Sign in to till'),
    h('form', { onsubmit: enter }, field('Admin token', 'An operator creates one with: caddy till token create', input), wrong, button),
    h('p', { class: 'hint' }, 'On the server itself, ', h('code', {}, 'caddy till console'), ' prints a link that signs in once.')));
  document.title = 'Sign in · till';
  input.focus();
}

async function begin(who) {
  turn++;
  me = who;
  vacate();
  frame();
  if (lost) note(leave.signal, main, 'A string that was shown is gone', h('p', {}, 'It was shown here once, and is not shown again. If nobody has kept it, rotate the key, or create another token.'));
  lost = false;
  every(seat(), 5000, watch);
  watch();
  await open();
}

document.addEventListener('signedin', () => { vacate(); start(); }); // their cookie is this tab's already
document.addEventListener('signedout', () => { if (me) signInPage('Your session is over: sign in again.'); });
addEventListener('hashchange', () => { if (location.hash.startsWith('#signin=')) start(); else open(); });
addEventListener('keydown', (e) => {
  const search = main.querySelector('input[type=search]');
  if (e.key === '/' && search && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName) && !document.querySelector('dialog[open]')) {
    e.preventDefault();
    search.focus();
  }
});

// takeLink returns the secret of a one-time link. It is in the fragment, which is never
// sent, and is removed from the address, and so from the history, before it is used.
function takeLink() {
  const link = /^#signin=([\w-]+)$/.exec(location.hash);
  if (link) history.replaceState(null, '', location.pathname);
  return link && link[1];
}

let turn = 0; // of those who sign in, or are asked for

async function start(link = takeLink()) {
  let who, failed, mine = ++turn;
  try {
    if (link) try { who = await api.signIn({ link }); mine = ++turn; } catch (e) { failed = e; }
    who ||= await api.whoami(); // a link that does not work ends no session
  } catch (e) {
    if (mine !== turn) return;
    // Only a 401 signs people out: a server in trouble ends no session.
    if (e.status === 401) signInPage(e.sentence, true); else put(main, problem(failed || e, () => start(link)));
    return;
  }
  if (mine !== turn) return;
  const why = failed && (failed.sentence || String(failed));
  if (!who) { signInPage(why, true); return; }
  await begin(who);
  if (why) say(why, true);
}

start();
