// The estate: which keys need attention, where the money goes, and whether the
// server is in order.
import * as api from './api.js';
import { ask, copier, every, h, heading, part, problem, put, say, time } from './dom.js';
import { compact, count, plural, span, usd } from './text.js';
import { shares } from './chart.js';

const why = { unused: 'Not used lately', never_used: 'Never used', over_granted: 'Granted far more than it uses', expiring: 'Expires soon' };
const OLD = 45 * 86400; // seconds after which prices are out of date

const verbs = { update: ['Narrow it', 'keys:update', 'It keeps what it uses, and no more.'], grant: ['Extend it', 'keys:update', 'It gets as much time again as it was minted with.'], revoke: ['Revoke it', 'keys:revoke', 'It ends at once and for ever.'] };

// proposal is what a command that is proposed for a key would do, so that a button can do
// it, unless the key has changed since. A command of any other form can only be copied.
function proposal(key, fix) {
  const parts = /^caddy till (update|grant|revoke) (key_\w+)((?: --[a-z-]+ \S+)+)$/.exec(fix || '');
  if (!parts) return null;
  const [, verb, id, flags] = parts, body = {};
  for (const [, flag, value] of flags.matchAll(/--([a-z-]+) (\S+)/g)) {
    const field = flag.replaceAll('-', '_');
    body[field] = field === 'models' ? value.split(',') : /^max_(activations|tokens)$/.test(field) ? Number(value) : value;
  }
  const [button, permission, meaning] = verbs[verb], once = api.doneOnce();
  return { button, permission, meaning, body, act: () => (verb === 'update' ? api.patch('keys/' + id, body, key.version) : api.post(`keys/${id}/${verb}`, body, once(body))) };
}

// carryOut does what a proposed command would do, after asking.
async function carryOut(key, what, signal, again) {
  const set = Object.entries(what.body).map(([f, v]) => `${f.replaceAll('_', ' ')} ${Array.isArray(v) ? v.join(', ') : v}`).join(', ');
  const answer = await ask({ title: `${what.button.replace(' it', '')} ${key.name || key.id}?`, button: what.button, busy: 'Fixing…', signal, body: h('p', {}, what.meaning, ' ', h('strong', {}, set), '.'), act: what.act });
  if (answer) { say('Fixed.'); await again(); }
}

function staleKeys(keys, may, signal, again) {
  if (keys.length === 0) return h('p', { class: 'hint' }, 'No key needs attention. Keys that nobody uses, that were never used, that expire soon or were granted far more than they need are listed here, each with the command that fixes it.');
  const groups = Object.groupBy(keys, (k) => k.reason);
  return h('div', { class: 'stack' }, Object.entries(groups).map(([reason, list]) => h('details', { open: true }, h('summary', {}, `${why[reason] || reason.replaceAll('_', ' ')} (${count(list.length)})`),
    h('ul', { class: 'rows' }, list.map(({ key, detail, fix }) => h('li', {}, h('div', { class: 'line' }, h('a', { href: '#/keys/' + key.id }, key.name || key.id), key.owner && h('span', { class: 'hint' }, key.owner)),
      h('span', { class: 'hint' }, detail), command(key, fix, may, signal, again)))))));
}

function command(key, fix, may, signal, again) {
  const what = proposal(key, fix);
  return fix && h('div', { class: 'secret' }, h('code', {}, fix), copier(fix, 'the command'), what && may(what.permission) && h('button', { type: 'button', class: 'small', onclick: () => carryOut(key, what, signal, again) }, what.button));
}

// stale lists the keys that need attention, page by page.
async function stale(el, tell, signal, may, cursor, before = []) {
  const answer = await api.get('stale', { cursor }, signal), all = [...before, ...(answer.keys || [])];
  if (answer.partial && answer.next && all.length === before.length) {
    tell(h('p', { class: 'hint' }, 'Looking through many keys…'));
    return stale(el, tell, signal, may, answer.next, all);
  }
  const next = (...from) => part(el, (tell) => stale(el, tell, signal, may, ...from));
  return [staleKeys(all, may, signal, next), answer.next && h('button', { type: 'button', class: 'small', onclick: () => next(answer.next, all) }, 'Show more')];
}

// spending adds up what all keys have used, page by page.
async function spending(tell, signal) {
  // Holders of keys name models, and one may be called "constructor", as a member of objects.
  const sums = { upstream: new Map(), owner: new Map(), model: new Map() };
  let cursor, looked = 0;
  do {
    const answer = await api.get('spend', { cursor }, signal);
    for (const by of Object.keys(sums)) {
      for (const row of answer[by] || []) {
        const sum = sums[by].get(row.name) || { keys: 0, activations: 0, tokens: 0, nano: 0n };
        sums[by].set(row.name, sum);
        sum.keys += row.keys;
        sum.activations += row.activations;
        sum.tokens += row.tokens;
        sum.nano += nanos(row.spend_usd);
      }
    }
    looked += answer.looked_at;
    cursor = answer.next;
    if (cursor) tell(h('p', { class: 'hint' }, `Adding up: ${plural(looked, 'key')} so far…`));
  } while (cursor);
  const column = (by, title, none, unnamed) => {
    const rows = [...sums[by]].map(([name, s]) => ({ ...s, name: name || unnamed })).filter((s) => s.activations > 0 || s.tokens > 0 || s.nano > 0n);
    rows.sort((a, b) => (b.nano > a.nano ? 1 : b.nano < a.nano ? -1 : b.tokens - a.tokens || b.activations - a.activations));
    return h('section', { class: 'card' }, h('h2', {}, title), rows.length === 0 ? h('p', { class: 'hint' }, none) : shares(rows.slice(0, 12).map((s) => ({
      name: s.name, value: s.nano > 0n ? Number(s.nano) / 1e9 : 0,
      text: usd(nano(s.nano)), more: [s.tokens > 0 && compact(s.tokens) + ' tokens', plural(s.activations, 'request'), plural(s.keys, 'key')].filter(Boolean).join(' · '),
    }))), rows.length > 12 && h('p', { class: 'hint' }, `And ${count(rows.length - 12)} more.`));
  };
  return [h('div', { class: 'cards' }, column('upstream', 'By upstream', 'Nothing has been used yet. What keys use is added up here.', 'none'),
    column('owner', 'By owner', 'Nothing has been used yet. If you name a key’s owner when you mint it, its use is added up here.', 'without an owner'),
    column('model', 'By model', 'Known for keys that may use a single model. Mint keys with one model each to see it here.', 'several models')),
  h('p', { class: 'hint' }, `Added up over ${plural(looked, 'listed key')}, renewed budgets included.`)];
}

// Sums of money are in whole nano-dollars, as in the store.
function nanos(text) {
  const [whole, part = ''] = text.split('.');
  return BigInt(whole) * 1000000000n + BigInt(part.padEnd(9, '0'));
}
function nano(n) {
  const text = n.toString().padStart(10, '0');
  return `${text.slice(0, -9)}.${text.slice(-9)}`;
}

function health(stats, prices) {
  const bad = stats.store_failure, off = stats.clock_off_seconds;
  const age = prices && prices.as_of && (Date.now() - new Date(prices.as_of)) / 1000;
  const card = (title, big, note, state) => h('section', { class: 'card' }, h('h2', {}, title), h('p', { class: 'big' }, big), h('p', { class: state === 'bad' ? 'danger-text' : 'hint' }, note));
  return [
    card('Store', bad ? 'Failed' : 'In order', bad || (off ? `The clock is off by ${span(Math.abs(off))}. If it is right now: caddy till repair --clock` : stats.forfeited_activations > 0 ? `At most ${plural(stats.forfeited_activations, 'activation')} forfeited by crashes` : 'Nothing was forfeited by crashes'), bad || off ? 'bad' : ''),
    card('In flight', count(stats.holds || 0), 'requests running now'),
    card('Used by all keys ever', usd(stats.used_spend_usd), `${compact(stats.used_activations || 0)} requests · ${compact(stats.used_tokens || 0)} tokens`),
    prices && card('Prices', age ? span(age) + ' old' : 'built in', [prices.prices ? plural(prices.prices.length, 'price') + ' · ' : '', 'as of ', prices.as_of ? time(prices.as_of) : 'this version', age > OLD ? '. Vendors change prices: update till, or set “prices” in its configuration.' : ''], age > OLD ? 'bad' : ''),
  ];
}

export async function estatePage({ main, signal, may, behind }) {
  const list = h('div', {}, h('p', { class: 'hint' }, 'Looking for keys that need attention…')), spend = h('div', {}, h('p', { class: 'hint' }, 'Adding up what keys used…')), well = h('div', { class: 'cards' });
  put(main, heading('Estate'), h('p', { class: 'faint' }, 'Which keys need attention, where the money goes, and whether the server is in order.'), well,
    h('section', { class: 'card' }, h('h2', {}, 'Keys that need attention'), list), h('h2', { class: 'apart' }, 'Spend'), spend);
  let prices, turn = 0;
  api.get('prices', null, signal).then((p) => { prices = p; return refresh(); }).catch(() => { /* the page works without them */ });
  const refresh = async () => {
    const mine = ++turn, stats = await api.get('stats', null, signal);
    if (mine !== turn) return;
    put(well, health(stats, prices));
    behind(null);
  };
  part(list, (tell) => stale(list, tell, signal, may));
  part(spend, (tell) => spending(tell, signal));
  try { await refresh(); } catch (e) { if (e.name === 'AbortError') throw e; if (!well.firstChild) put(well, problem(e)); }
  every(signal, 5000, refresh, behind);
}
