// The list of keys: live, filtered, searched, page by page.
import * as api from './api.js';
import { ask, empty, every, field, h, heading, problem, put, say, seat, strike, time, uid } from './dom.js';
import { follow } from './feed.js';
import { compact, count, limitsOf, plural, statuses } from './text.js';

const PAGE = 50;
const NAMED = 10; // keys that are named before they are ended
const SELDOM = 30000; // ms between two reads of a list that takes many keys
const filters = ['status', 'upstream', 'role', 'owner', 'created_by', 'unused_for', 'q', 'label'];

// asFilter translates the filters of the page into those of the management API.
export function asFilter(q) {
  const f = {};
  for (const name of filters) {
    if (!q[name]) continue;
    if (name !== 'label') { f[name] = q[name]; continue; }
    const [, k, v] = /^([^=]*)=(.*)$/.exec(q.label) || [];
    if (!k?.trim() || !v.trim()) throw new Error('A label is written name=value.');
    f['label.' + k.trim()] = v.trim();
  }
  return f;
}

// badge shows a status, with its meaning on hover.
export const badge = (status) => h('span', { class: 'badge ' + status, title: statuses[status] || '' }, status);

// bar shows what is left of one limit.
export function bar(limit) {
  const el = h('div', { class: 'burn' }, h('div', { class: 'track' }, h('div', { class: 'left' }), h('div', { class: 'held' })), h('span', { class: 'figure' }));
  el.update = (l) => {
    const [left, held] = el.firstChild.children;
    el.title = l.label + ': ' + l.text + (l.held ? ', some of it held by requests in flight' : '');
    el.className = 'burn ' + (l.share <= 0 ? 'gone' : l.share <= 0.1 ? 'low' : l.share <= 0.25 ? 'fair' : '');
    left.style.width = l.share * 100 + '%';
    held.style.width = l.held * 100 + '%';
    if (el.lastChild.textContent !== l.text) put(el.lastChild, l.text);
  };
  el.update(limit);
  return el;
}

const kinds = [['activations', 'Activations'], ['tokens', 'Tokens'], ['spend', 'Spend'], ['time', 'Time']];

// row is one key of the table, which is updated in place so that neither focus
// nor selection is lost.
function row(k, chosen, revoke, mayRevoke) {
  const box = h('input', { type: 'checkbox', 'aria-label': 'Choose ' + (k.name || k.id), onchange: () => chosen.set(k.id, box.checked) });
  const name = h('a', { href: '#/keys/' + k.id }), note = h('span', { class: 'faint mono' });
  const status = h('td', { role: 'cell', 'data-label': 'Status' }), upstream = h('td', { role: 'cell', 'data-label': 'For' });
  const used = h('td', { role: 'cell', 'data-label': 'Last used' });
  const cells = kinds.map(([, label]) => h('td', { role: 'cell', 'data-label': label, class: 'limit' }));
  const end = h('button', { type: 'button', class: 'small quiet danger-text', onclick: () => revoke(tr.key) }, 'Revoke');
  const tr = h('tr', { role: 'row', 'data-id': k.id }, h('td', { role: 'cell', class: 'choose' }, box),
    h('th', { role: 'rowheader', scope: 'row' }, name, note), status, upstream, cells, used, h('td', { role: 'cell', class: 'end' }, end));
  tr.update = (now) => {
    const was = tr.key;
    tr.key = now;
    if (!was || was.name !== now.name) { put(name, now.name || now.id); put(note, now.name ? now.id : ''); }
    if (!was || was.status !== now.status) { put(status, badge(now.status)); end.hidden = !mayRevoke || now.status === 'revoked'; tr.classList.toggle('dead', now.status === 'revoked' || now.status === 'expired'); }
    if (!was || was.upstream !== now.upstream || was.owner !== now.owner) put(upstream, now.upstream, now.owner && h('span', { class: 'faint' }, now.owner));
    if (!was || was.last_used_at !== now.last_used_at) put(used, time(now.last_used_at));
    const limits = Object.fromEntries(limitsOf(now).map((l) => [l.kind, l]));
    kinds.forEach(([kind], i) => {
      const cell = cells[i], there = cell.firstChild && cell.firstChild.update;
      if (!limits[kind]) { if (there || !cell.firstChild) put(cell, h('span', { class: 'faint', title: 'Not limited' }, '–')); cell.classList.add('none'); return; }
      cell.classList.remove('none');
      if (there) cell.firstChild.update(limits[kind]); else put(cell, bar(limits[kind]));
    });
  };
  tr.tick = (on) => { box.checked = on; };
  tr.update(k);
  return tr;
}

// revokeDialog ends one key after a question, on the page that signal is of.
export async function revokeDialog(k, signal) {
  const why = h('input', { type: 'text', maxlength: 200, autocomplete: 'off' });
  const answer = await ask({
    title: `Revoke ${k.name || k.id}?`, button: 'Revoke', busy: 'Revoking…', danger: true, signal,
    body: [h('p', {}, 'The key ends at once and for ever, and its running streams are cut. ' + (k.status === 'active' && k.last_used_at ? 'It was in use.' : '')),
      field('Reason', 'Shown in the audit log and in the refusal.', why)],
    act: () => api.post(`keys/${k.id}/revoke`, { reason: why.value }),
  });
  if (!answer) return null;
  const cut = answer.done.streams_cut;
  strike(k.id);
  strikeRevoked();
  say(`${k.name || k.id} is revoked${cut ? ', and ' + plural(cut, 'stream') + ' cut' : ''}.`);
  return answer.done;
}

// strikeRevoked strikes what is noted of keys that are revoked by now: no answer names the
// children of a key, nor the keys that a job has ended.
async function strikeRevoked() {
  const ids = new Set([...document.querySelectorAll('[data-of^=key_]')].map((el) => el.dataset.of)), who = seat();
  await Promise.all([...ids].map(async (id) => {
    try { if ((await api.get('keys/' + id, null, who)).status === 'revoked') strike(id); } catch (e) { if (e.status === 404) strike(id); }
  }));
}

export async function keysPage({ main, signal, may, go, behind, q }) {
  let page, table, body, all, turn = 0, rest = 0;
  let reading = 0; // the turn whose list is being read
  let failed = false; // what went wrong is shown in place of the list
  const chosen = new Map(), rows = new Map();
  chosen.set = function (id, on) { on ? Map.prototype.set.call(this, id, on) : this.delete(id); toolbar(); return this; };
  // tick shows which keys are chosen: those with a tick, and no others.
  const tick = () => {
    for (const [id, r] of rows) r.tick(chosen.has(id));
    if (!all) return;
    all.checked = chosen.size > 0 && chosen.size === rows.size;
    all.indeterminate = chosen.size > 0 && chosen.size < rows.size;
  };
  const gone = () => { table = null; rows.clear(); chosen.clear(); }; // the list is not shown any more

  // offer puts buttons into their place unless it has the same already: the list is drawn
  // every few seconds, and a button that is replaced loses the focus, and the press of
  // somebody who has not let go yet.
  const offer = (place, ...kids) => {
    const now = kids.filter(Boolean);
    if (place.textContent !== now.map((k) => k.textContent).join('')) put(place, now);
  };
  const cursors = () => (q.cursors ? q.cursors.split('.') : []);
  const filtered = () => Object.keys(asFilter(q)).length > 0;
  // change applies other filters, and puts them into the address.
  const change = (more, past = 'replaceState') => {
    q = { ...q, cursors: '', ...more };
    const set = Object.entries(q).filter(([, v]) => v);
    history[past](null, '', '#/keys' + (set.length ? '?' + new URLSearchParams(set) : ''));
    if (chosen.size > 0) { chosen.clear(); tick(); put(bulk); }
    page = null;
    return attempt();
  };
  const control = (name, label, input) => {
    const id = uid('c');
    input.id = id;
    input.addEventListener('change', () => change({ [name]: input.value.trim() }));
    return h('div', { class: 'control' }, h('label', { for: id }, label), input);
  };
  const choice = (value, options) => h('select', {}, options.map(([v, text]) => h('option', { value: v, selected: v === (value || '') }, text)));
  const upstreams = choice(q.upstream, [['', 'Any'], ...(q.upstream ? [[q.upstream, q.upstream]] : [])]);
  const search = h('input', { type: 'search', value: q.q || '', placeholder: 'Name or id, from its beginning', autocomplete: 'off' });
  let typing;
  search.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => change({ q: search.value.trim() }), 300); });
  signal.addEventListener('abort', () => clearTimeout(typing));
  const more = h('details', { class: 'more', open: Boolean(q.role || q.owner || q.created_by || q.unused_for || q.label) }, h('summary', {}, 'More filters'),
    h('div', { class: 'controls' },
      control('owner', 'Owner', h('input', { type: 'text', value: q.owner || '', autocomplete: 'off' })),
      control('role', 'Role', h('input', { type: 'text', value: q.role || '', autocomplete: 'off' })),
      control('created_by', 'Minted by', h('input', { type: 'text', value: q.created_by || '', autocomplete: 'off' })),
      control('label', 'Label', h('input', { type: 'text', value: q.label || '', placeholder: 'team=data', autocomplete: 'off' })),
      control('unused_for', 'Unused for', choice(q.unused_for, [['', 'Any time'], ['1h', '1 hour'], ['24h', '1 day'], ['168h', '7 days'], ['720h', '30 days']]))));
  const bulk = h('div', { class: 'bulk' }), list = h('div', {}, h('p', { class: 'wait' }, 'Reading the keys…')), pager = h('div', { class: 'pager' });
  const total = h('p', { class: 'faint', id: 'total' });

  put(main, heading('Keys', may('keys:create') && h('button', { type: 'button', class: 'primary', onclick: () => go('mint') }, 'Mint key')), total,
    h('div', { class: 'controls', role: 'search' }, h('div', { class: 'control wide' }, h('label', { for: 'search' }, 'Search'), search),
      control('status', 'Status', choice(q.status, [['', 'Any'], ...Object.keys(statuses).map((s) => [s, s])])),
      control('upstream', 'For', upstreams),
      control('sort', 'Sort', choice(q.sort || '-created', [['-created', 'Newest first'], ['created', 'Oldest first'], ['-last_used', 'Used last'], ['last_used', 'Unused longest']]))),
    more, bulk, list, pager);
  search.id = 'search';

  api.get('upstreams', null, signal).then((a) => put(upstreams, [['', 'Any'], ...a.upstreams.map((u) => [u.name, u.name])].map(([v, text]) =>
    h('option', { value: v, selected: v === (q.upstream || '') }, text)))).catch(() => { /* the filter keeps its options */ });

  const afterRevoke = async (k) => { if (await revokeDialog(k, signal)) await attempt(); };

  // read collects one page. An answer can be short because the server had to look at
  // many keys for few that match. Then read asks for more, a few times.
  async function read(mine) {
    const from = { ...asFilter(q), sort: q.sort || '-created', cursor: cursors().at(-1) };
    const got = { keys: [], next: '', partial: false };
    for (let i = 0; i < 10; i++) {
      const part = await api.get('keys', { ...from, limit: PAGE - got.keys.length }, signal);
      got.keys.push(...part.keys);
      got.next = part.next || '';
      got.partial = Boolean(part.partial);
      if (!got.partial || !got.next || got.keys.length >= PAGE) break;
      from.cursor = got.next;
      if (!page && !failed && mine === turn) put(list, h('p', { class: 'wait' }, `Looking through many keys; ${plural(got.keys.length, 'match', 'matches')} so far…`));
    }
    return got;
  }

  function draw() {
    if (page.keys.length === 0) {
      gone();
      put(list, filtered() ? empty('No key matches', page.partial ? 'Many keys were searched, and there are more.' : 'Remove a filter, or search by the beginning of a name or an id.',
        h('p', {}, h('a', { href: '#/keys' }, 'Show all keys')))
        : empty('No keys yet', 'A scoped key works in place of a real one, with hard limits on requests, tokens, dollars and time. Hand it to an agent, a script or a colleague. When it is used up it is dead, and the real key was never seen.',
          may('keys:create') ? 'Mint the first one with the button above, or on the command line:' : 'People who may mint keys do so here, or on the command line:',
          h('pre', {}, 'caddy till create --name nightly --max-activations 500 --expires-in 24h')));
    } else {
      if (!table?.isConnected) { // none yet, or it gave way to what read said
        all = h('input', { type: 'checkbox', 'aria-label': 'Choose all on this page', onchange: () => { const on = all.checked; for (const id of rows.keys()) chosen.set(id, on); } });
        const head = (text) => h('th', { role: 'columnheader', scope: 'col' }, text);
        body = h('tbody', { role: 'rowgroup' });
        table = h('table', { class: 'keys', role: 'table', 'aria-label': 'Keys' }, h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, h('th', { role: 'columnheader', scope: 'col', class: 'choose' }, all),
          head('Key'), head('Status'), head('For'), kinds.map(([, label]) => head(label)), head('Last used'), h('th', { role: 'columnheader', scope: 'col' }, h('span', { class: 'hidden' }, 'Act')))), body);
        put(list, table);
      }
      // What is gone goes first, or each row below it would be put in anew, and lose the focus.
      const seen = new Set(page.keys.map((k) => k.id));
      for (const [id, r] of rows) if (!seen.has(id)) { r.remove(); rows.delete(id); chosen.delete(id); }
      const focused = document.activeElement;
      page.keys.forEach((k, i) => {
        const there = body.children[i];
        let r = rows.get(k.id);
        if (r) r.update(k); else { r = row(k, chosen, afterRevoke, may('keys:revoke')); rows.set(k.id, r); }
        if (there && there.nextSibling === r) body.append(there); // it moves down, and the others stay
        else if (there !== r) body.insertBefore(r, there || null);
      });
      if (body.contains(focused)) focused.focus({ preventScroll: true }); // in a row that has moved
    }
    const at = cursors().length, turnTo = (list) => change({ cursors: list.join('.') }, 'pushState').then(() => scrollTo(0, 0));
    offer(pager, at > 0 && h('button', { type: 'button', onclick: () => turnTo(cursors().slice(0, -1)) }, 'Previous'),
      (at > 0 || page.next) && h('span', { class: 'faint' }, 'Page ' + count(at + 1)),
      page.next && h('button', { type: 'button', onclick: () => page && turnTo([...cursors(), page.next]) }, 'Next'));
    toolbar();
  }

  function toolbar() {
    const n = chosen.size, allowed = may('keys:revoke');
    tick();
    offer(bulk, allowed && n > 0 && h('button', { type: 'button', class: 'danger', onclick: endChosen }, `End ${plural(n, 'chosen key')}…`),
      allowed && n === 0 && page && page.keys.length > 0 && filtered() && h('button', { type: 'button', class: 'quiet danger-text', onclick: endMatching }, 'End all that match…'));
  }

  async function endChosen() {
    const ids = [...chosen.keys()], names = ids.map((id) => rows.get(id).key.name || id), more = names.length - NAMED;
    const answer = await ask({
      title: `End ${plural(ids.length, 'key')}?`, button: 'End them', busy: 'Ending…', danger: true, signal,
      body: [h('p', {}, 'They are revoked at once and for ever, and their running streams are cut.'),
        h('ul', { class: 'names' }, names.slice(0, NAMED).map((name) => h('li', {}, name)), more > 0 && h('li', {}, `and ${count(more)} more`))],
      act: async (tell, who) => {
        for (const id of ids) {
          who.throwIfAborted(); // whoever signs in next has not asked for the rest
          await api.post(`keys/${id}/revoke`, {});
          chosen.set(id, false);
          strike(id);
        }
      },
    });
    if (answer) say(plural(ids.length, 'key') + ' revoked.');
    await Promise.all([strikeRevoked(), attempt()]);
  }

  async function endMatching() {
    const filter = asFilter(q), input = h('input', { type: 'text', inputmode: 'numeric', autocomplete: 'off' });
    const shown = Object.entries(filter).map(([k, v]) => `${k} ${v}`).join(', ');
    let matched;
    try {
      const found = await api.post('keys/revoke', { filter, dry_run: true });
      matched = found.matched - (found.already_revoked || 0);
      filter.created_before = found.at; // what is minted since was not counted, and stays
    } catch (e) { say(e.sentence, true); return; }
    if (!matched) { say('All keys that match are already revoked.'); return; }
    const why = h('input', { type: 'text', maxlength: 200, autocomplete: 'off' });
    const answer = await ask({
      title: `End ${plural(matched, 'key')}?`, button: 'End them', busy: 'Ending…', danger: true, signal,
      body: [h('p', {}, 'Every key that matches is revoked at once and for ever, and running streams are cut: ', h('strong', {}, shown), '. Keys that are minted from now on stay, unless they are children of these.'),
        field('How many', `Type ${matched} to confirm.`, input), field('Reason', 'Shown in the audit log and in the refusals.', why)],
      ready: (allow) => { allow(false); input.addEventListener('input', () => allow(input.value.replace(/\D/g, '') === String(matched))); },
      act: async (tell, who) => {
        // The server does this as a job, which continues even if this page is closed.
        let job = await api.post('keys/revoke', { filter, reason: why.value, wait: false });
        while (!job.done) {
          if (job.failure) throw new Error(`It is interrupted: ${job.failure}. The server tries again by itself.`);
          tell(`${count(job.revoked)} of ${count(matched)} ended…`);
          await new Promise((resolve) => setTimeout(resolve, 200));
          job = await api.get('jobs/' + job.job, null, who);
        }
        return job;
      },
    });
    if (answer) say(`${plural(answer.done.revoked, 'key')} revoked${answer.done.streams_cut ? ', ' + plural(answer.done.streams_cut, 'stream') + ' cut' : ''}.`);
    await Promise.all([strikeRevoked(), attempt()]); // also after a job that was interrupted
  }

  async function refresh(mine) {
    let got;
    reading = mine;
    try { got = await read(mine); } finally { if (reading === mine) reading = 0; }
    if (mine !== turn) return; // the filters have changed meanwhile
    page = got;
    failed = false;
    rest = got.partial ? Date.now() + SELDOM : 0;
    draw();
    const stats = await api.get('stats', null, signal);
    if (mine !== turn) return;
    const parts = Object.entries(stats.keys || {}).filter(([, n]) => n > 0).map(([status, n]) => `${compact(n)} ${status}`);
    put(total, parts.join(' · '), stats.holds ? ` · ${plural(stats.holds, 'request')} running now` : '');
    behind(null);
  }
  async function attempt() {
    const mine = ++turn;
    failed = false;
    try { await refresh(mine); } catch (e) {
      if (e.name !== 'AbortError' && mine === turn) { failed = true; gone(); [bulk, pager].forEach((el) => put(el)); put(list, problem(e, attempt)); }
    }
  }
  // again refreshes the list by itself. It must not load the server, nor take the place of
  // a read that is under way, which may be the one that somebody waits for.
  const again = async () => {
    if (reading || Date.now() < rest) return;
    const mine = ++turn;
    try { await refresh(mine); } catch (e) { if (mine === turn) throw e; }
  };
  await attempt();
  every(signal, 3000, again, (e) => behind(failed ? null : e));
  // Events refresh the list at once; use is shown with the next regular refresh.
  let soon;
  follow(signal, () => { clearTimeout(soon); soon = setTimeout(() => again().catch(() => { /* the next refresh reports it */ }), 150); });
}
