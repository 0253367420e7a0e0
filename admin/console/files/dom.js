// Elements, dialogs and times on the page. Nothing here makes markup out of text,
// so a key's name can never become markup.
import { exact, relative } from './text.js';

const SVG = 'http://www.w3.org/2000/svg';

function fill(el, attrs, kids) {
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [p, v] of Object.entries(value)) el.style.setProperty(p, v);
    else if (name in { value: 1, checked: 1, disabled: 1, indeterminate: 1 }) el[name] = value;
    else el.setAttribute(name, value === true ? '' : value);
  }
  el.append(...kids.flat(Infinity).filter((k) => k !== null && k !== undefined && k !== false));
  return el;
}

// h makes an element of HTML, s one of SVG.
export const h = (tag, attrs, ...kids) => fill(document.createElement(tag), attrs, kids);
export const s = (tag, attrs, ...kids) => fill(document.createElementNS(SVG, tag), attrs, kids);

// put replaces the content of an element.
export const put = (el, ...kids) => { el.replaceChildren(); return fill(el, null, kids); };

// time shows how long ago a moment was, and the exact time on hover.
export function time(iso, none = 'never') {
  if (!iso) return h('span', { class: 'faint' }, none);
  return h('time', { datetime: iso, title: exact(iso) }, relative(iso));
}

setInterval(() => {
  for (const el of document.querySelectorAll('time[datetime]')) {
    const now = relative(el.dateTime);
    if (el.textContent !== now) el.textContent = now;
  }
}, 5000);

// every calls f regularly while the page is visible, until signal ends. After
// failures it tries again more and more slowly, and tells of each.
export function every(signal, ms, f, told = () => {}) {
  let timer, slow = 1;
  const next = () => { clearTimeout(timer); if (!signal.aborted) timer = setTimeout(run, ms * slow); };
  const run = async () => {
    if (document.hidden) return next();
    try { await f(); slow = 1; } catch (e) { if (e.name === 'AbortError') return; slow = Math.min(slow * 2, 8); told(e); }
    next();
  };
  const seen = () => { if (!document.hidden) { slow = 1; clearTimeout(timer); run(); } };
  document.addEventListener('visibilitychange', seen, { signal });
  signal.addEventListener('abort', () => clearTimeout(timer));
  next();
}

let quiet;

// say reports what was done, also to screen readers.
export function say(text, bad) {
  const el = document.getElementById('said');
  put(el, h('p', { class: bad ? 'bad' : '' }, text));
  clearTimeout(quiet);
  quiet = setTimeout(() => put(el), bad ? 12000 : 6000);
}

export const sentence = (e) => e.sentence || e.message || String(e);

// problem shows what could not be done, and what to do about it.
export function problem(e, retry) {
  return h('div', { class: 'problem', role: 'alert' }, h('p', {}, sentence(e)),
    retry && h('button', { type: 'button', onclick: retry }, 'Try again'));
}

// toTitle puts the focus where a page begins, when what had it is gone.
export const toTitle = () => document.querySelector('#main h1')?.focus();

let serial = 0;
export const uid = (prefix) => prefix + '-' + ++serial;

// A seat is the time for which somebody is signed in. It ends when they sign out, and when
// somebody else signs in, who sees nothing that was open or under way for them.
let sitting = new AbortController();
export const seat = () => sitting.signal;
export function newSeat() {
  sitting.abort();
  for (const card of document.querySelectorAll('.note')) card.remove();
  sitting = new AbortController();
  return sitting.signal;
}

const HANGS = 30000; // ms after which a dialog may be closed although it is still working

// ask opens a dialog. Its button runs act: the dialog waits until act is done, and
// if act fails, it says why and stays open. It closes when the page is left that signal
// is of, but not while act runs, unless that takes very long. Browsers let people close
// it even then (a second Esc, a phone's Back): what act comes to is still answered, or
// said, in the same seat.
export function ask({ title, body, button, danger, busy, act, ready, signal }) {
  return new Promise((resolve) => {
    if (signal?.aborted) { resolve(); return; }
    const id = uid('ask'), wrong = h('div', { 'aria-live': 'assertive' }), who = seat(), over = new AbortController();
    const go = h('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, button);
    const stop = h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel');
    let answer, running, working = false, late;
    const run = async () => {
      try {
        answer = { done: await act((text) => put(go, text), who) };
        dialog.close();
      } catch (e) {
        if (!dialog.open) { if (!who.aborted) say(`${button}: ${sentence(e)}`, true); return; }
        clearTimeout(late);
        working = false;
        put(wrong, problem(e));
        go.disabled = stop.disabled = false;
        put(go, button);
        put(stop, 'Cancel');
      }
    };
    const dialog = h('dialog', { 'aria-labelledby': id }, h('form', {
      onsubmit: (event) => {
        event.preventDefault();
        if (working || go.disabled) return;
        working = go.disabled = stop.disabled = true;
        late = setTimeout(() => { stop.disabled = false; put(stop, 'Close'); }, HANGS);
        put(go, busy || button + '…');
        put(wrong);
        running = run();
      },
    }, h('h2', { id }, title), h('div', { class: 'stack' }, body), wrong, h('div', { class: 'actions' }, stop, go)));
    const hold = (event) => { if (stop.disabled) event.preventDefault(); };
    dialog.addEventListener('cancel', hold);
    document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hold(event); }, { signal: over.signal });
    dialog.addEventListener('close', async () => {
      over.abort();
      clearTimeout(late);
      dialog.remove();
      await running;
      resolve(who.aborted ? undefined : answer);
    });
    signal?.addEventListener('abort', () => { if (!stop.disabled) dialog.close(); }, { signal: over.signal });
    who.addEventListener('abort', () => dialog.close(), { signal: over.signal });
    if (ready) ready((ok) => { go.disabled = !ok || working; });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// note is a card that stays in place until somebody is done with it. If the page that signal
// is of was left, or gave way to what went wrong, before there was anything to show, it is
// shown above what is open.
export function note(signal, place, title, ...kids) {
  const id = uid('note'), card = h('section', { class: 'card note', 'aria-labelledby': id }, h('h2', { id }, title), kids,
    h('div', { class: 'actions below' }, h('button', { type: 'button', onclick: () => { card.remove(); toTitle(); } }, 'Done')));
  (signal.aborted || !place.isConnected ? document.getElementById('notes') : place).prepend(card);
  card.scrollIntoView({ block: 'nearest' });
  return card;
}

// strike removes what is noted of a key or an admin token: its string, or that it still
// works. A card of which nothing is left goes, too.
export function strike(id) {
  for (const el of document.querySelectorAll('[data-of]')) {
    if (el.dataset.of !== id) continue;
    const card = el.closest('section');
    el.remove();
    if (!card.querySelector('[data-of]')) card.remove();
  }
}

// part fills an element with what load returns or tells meanwhile, or says in it what
// could not be loaded; but not if it is to be filled anew by then.
export async function part(el, load) {
  const mine = el.turn = (el.turn || 0) + 1, tell = (...kids) => { if (mine === el.turn) put(el, ...kids); };
  try { tell(await load(tell)); } catch (e) { if (e.name !== 'AbortError') tell(e.status === 403 || e.missing ? h('p', { class: 'hint' }, e.sentence) : problem(e)); }
}

// field is a labelled input, with its meaning below it.
export function field(label, hint, input, extra) {
  const id = uid('f'), about = id + '-hint';
  input.id = id;
  if (hint) input.setAttribute('aria-describedby', about);
  return h('div', { class: 'field' }, h('label', { for: id }, label), input, hint && h('p', { class: 'hint', id: about }, hint, extra));
}

// copier is a button that copies a text.
export function copier(text, what) {
  const b = h('button', { type: 'button', class: 'small', 'aria-label': 'Copy ' + what }, 'Copy');
  b.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      put(b, 'Copied');
      say(what[0].toUpperCase() + what.slice(1) + ' copied.');
    } catch { say('The browser does not let this page copy. Select the text instead.', true); }
    setTimeout(() => put(b, 'Copy'), 2000);
  });
  return b;
}

// snippet is a text to copy.
export const snippet = (text, what) => h('div', { class: 'snippet' }, h('pre', { tabindex: '0', 'aria-label': what }, text), copier(text, what));

// empty explains what a list would show if it were not empty.
export const empty = (title, ...about) => h('div', { class: 'empty' }, h('h2', {}, title), about.map((a) => (typeof a === 'string' ? h('p', {}, a) : a)));

// heading is a page's title, which gets the focus when the page is opened.
export const heading = (title, ...actions) => h('div', { class: 'heading' }, h('h1', { tabindex: '-1' }, title), h('div', { class: 'actions' }, actions));
