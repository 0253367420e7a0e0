// One key: what is left, what it did, and what can be done about it.
import * as api from './api.js';
import { ask, copier, every, field, h, heading, note, part, put, say, strike, time } from './dom.js';
import { badge, bar, revokeDialog } from './keys.js';
import { count, limitsOf, plural, reason, statuses, usd } from './text.js';
import { shares, usageChart } from './chart.js';
import { clientLines, showSecret } from './clients.js';
import { entries } from './audit.js';

const list = (values) => values && values.length > 0 && values.join(', ');
const pairs = (o) => o && Object.entries(o).map(([k, v]) => `${k}=${v}`).join(', ');

function facts(k) {
  const rows = [
    ['Id', h('span', { class: 'mono' }, k.id, ' ', copier(k.id, 'the id'))], ['Upstream', k.upstream], ['Real key', k.custody === 'sealed' ? 'sealed inside the key; the server has none' : 'held by the server'],
    ['Minted', [time(k.created_at), ' by ', k.created_by]], ['First used', time(k.first_used_at)], ['Last used', [time(k.last_used_at), k.last_ip && ` from ${k.last_ip}`]],
    ['Expires', k.expires_at && time(k.expires_at)], ['Ended', k.ended_at && [time(k.ended_at), k.ended_reason && ': ' + k.ended_reason]],
    ['Suspended by', k.suspended_by],
    ['Parent', k.parent && h('a', { href: '#/keys/' + k.parent, class: 'mono' }, k.parent)],
    ['Owner', k.owner], ['Purpose', k.purpose], ['Role', k.role], ['Labels', pairs(k.labels)], ['Metadata', pairs(k.metadata)],
    ['Budgets renew', k.renews && ['each ', k.renews, k.renews_at && [', next ', time(k.renews_at)]]], ['One request', k.max_request_spend_usd && `may cost at most ${usd(k.max_request_spend_usd)}`],
    ['Rate', k.rate], ['At once', k.max_concurrency], ['Ends when idle', k.idle_timeout && `for ${k.idle_timeout}`], ['First use', k.first_use_within && `within ${k.first_use_within}`],
    ['Models', list(k.models)], ['Methods', list(k.methods)], ['Paths', list(k.paths)], ['Addresses', list(k.ips) || (k.pin_ip && 'the first one that uses it')],
    ['Charged', k.charge === 'success' && 'for successful answers only'], ['Children', k.delegate && 'its holder may mint keys below it'], ['Unknown prices', k.unknown_price === 'count_only' && 'are let through, and only tokens are counted'],
  ];
  return h('dl', { class: 'facts' }, rows.filter(([, v]) => v).map(([name, v]) => [h('dt', {}, name), h('dd', {}, v)]));
}

const kindNames = { input: 'input', cached: 'read from cache', cached_input: 'read from cache', cache_write: 'written to cache', output: 'output', reasoning: 'reasoning', unmeasured: 'charged at the bound' };

async function grant(k, signal) {
  const number = (text) => h('input', { type: 'number', min: 0, step: 1, inputmode: 'numeric', placeholder: text });
  const a = number('50'), t = number('100000'), s = h('input', { type: 'text', inputmode: 'decimal', placeholder: '1.00', pattern: '\\d+(\\.\\d{1,9})?' });
  const e = h('input', { type: 'text', placeholder: '24h' }), once = api.doneOnce();
  const answer = await ask({
    title: `Grant more to ${k.name || k.id}`, button: 'Grant', busy: 'Granting…', signal,
    body: [h('p', { class: 'hint' }, 'This is added to what the key has. An exhausted or expired key works again.'), h('div', { class: 'grid' },
      k.max_activations !== undefined && field('More activations', 'Requests.', a), k.max_tokens !== undefined && field('More tokens', 'Input and output.', t),
      k.max_spend_usd && field('More spend (USD)', 'Dollars, such as 1.00.', s), field('More time', 'Such as 90m, 24h or 7d.', e))],
    act: () => {
      const body = {};
      if (a.value) body.activations = Number(a.value);
      if (t.value) body.tokens = Number(t.value);
      if (s.value) body.spend_usd = s.value;
      if (e.value) body.expires_in = e.value.trim();
      if (Object.keys(body).length === 0) throw new Error('Enter how much to add to at least one limit.');
      return api.post(`keys/${k.id}/grant`, body, once(body));
    },
  });
  if (answer) say('Granted.');
}

async function rotate(k, signal, place) {
  const grace = h('input', { type: 'text', value: '1h' }), real = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true });
  const answer = await ask({
    title: `Rotate ${k.name || k.id}?`, button: 'Rotate', busy: 'Rotating…', signal,
    body: [h('p', {}, 'The key gets a new string, which is shown once. Its id, limits, counts and rules stay.'), field('The old string still works for', 'Such as 10m or 1h; 0s ends it at once.', grace),
      k.custody === 'sealed' && field('Real key to seal', 'It is sealed into the string, and the server has no copy: enter it again.', real)],
    act: () => api.post(`keys/${k.id}/rotate`, { grace: grace.value.trim() || '0s', ...(k.custody === 'sealed' ? { upstream_key: real.value.trim() } : {}) }),
  });
  if (!answer) return;
  const lines = h('div', { class: 'below' });
  strike(k.id); // a former string
  note(signal, place, `The new string of ${k.name || k.id}`, showSecret(answer.done.scoped_key), lines).dataset.of = k.id;
  say('Rotated: the new string is shown once.');
  put(lines, await clientLines({ ...k, ...answer.done }));
}

export async function keyPage({ main, signal, may, behind, id }) {
  let k = await api.get('keys/' + id, null, signal);
  const head = h('div', {}), about = h('p', { class: 'faint' }), limits = h('div', { class: 'cards' }), fresh = h('div', {}), chart = usageChart();
  const refused = h('div', {}), details = h('div', {}), kinds = h('div', {}), children = h('div', {}), trail = h('div', {});
  const waiting = (el) => put(el, h('p', { class: 'hint' }, 'Reading…'));
  [refused, children, trail].forEach(waiting);

  const act = (f) => async () => { try { await f(); await refresh(); await audit(); } catch (e) { if (e.name !== 'AbortError') say(e.sentence || e.message, true); } };
  const to = (what, done) => async () => { await api.post(`keys/${id}/${what}`); say(done); };
  let drawn = '', cards, described, turn = 0;
  function draw() {
    const key = JSON.stringify([k.name, k.status]);
    if (key !== drawn) {
      drawn = key;
      const dead = k.status === 'revoked', revoke = may('keys:revoke') && !dead;
      if (dead) strike(id);
      put(head, heading(k.name || k.id, may('keys:update') && !dead && h('button', { type: 'button', onclick: act(() => grant(k, signal)) }, 'Grant more'),
        may('keys:rotate') && !dead && h('button', { type: 'button', onclick: act(() => rotate(k, signal, fresh)) }, 'Rotate'),
        revoke && k.status === 'active' && h('button', { type: 'button', onclick: act(to('suspend', 'Suspended: it is refused until it is resumed.')) }, 'Suspend'),
        revoke && k.status === 'suspended' && h('button', { type: 'button', onclick: act(to('resume', 'Resumed.')) }, 'Resume'),
        revoke && h('button', { type: 'button', class: 'danger', onclick: act(() => revokeDialog(k, signal)) }, 'Revoke')));
      put(about, badge(k.status), ' ', statuses[k.status], '.');
    }
    const now = limitsOf(k);
    const which = now.map((l) => l.kind).join();
    if (which !== cards) {
      cards = which;
      put(limits, now.length === 0 ? h('div', { class: 'card' }, h('h2', {}, 'No limit'), h('p', { class: 'hint' }, 'Nothing ends this key by itself. It needs no grant; revoke it when it is not used any more.'))
        : now.map((l) => h('div', { class: 'card' }, h('h2', {}, l.label), bar(l), h('p', { class: 'hint' }))));
    }
    now.forEach((l, i) => {
      limits.children[i].children[1].update(l);
      const held = { activations: k.held_activations, tokens: k.held_tokens, spend: Number(k.held_spend_usd || 0) }[l.kind];
      const given = { activations: k.delegated_activations, tokens: k.delegated_tokens, spend: k.delegated_spend_usd }[l.kind];
      const used = { activations: () => count(k.used_activations), tokens: () => count(k.used_tokens), spend: () => usd(k.used_spend_usd) }[l.kind];
      put(limits.children[i].lastChild, used ? `${used()} used` : ['Ends ', time(k.expires_at)], held > 0 && `, ${l.kind === 'spend' ? usd(k.held_spend_usd) : count(held)} held by requests in flight`, given && given !== '0.00' && `, ${l.kind === 'spend' ? usd(given) : count(given)} given to children`);
    });
    const text = JSON.stringify(k);
    if (text !== described && !details.contains(document.activeElement)) { described = text; put(details, facts(k)); }
    const by = Object.entries(k.tokens_by_kind || {}).filter(([, n]) => n > 0);
    put(kinds, by.length > 0 && h('section', { class: 'card' }, h('h2', {}, 'Tokens by kind'), shares(by.map(([name, n]) => ({ name: kindNames[name] || name.replaceAll('_', ' '), value: n, text: count(n) })))));
  }
  function used(usage) {
    chart.update(usage);
    const sums = {};
    for (const b of usage.days) for (const [code, n] of Object.entries(b.refusals || {})) sums[code] = (sums[code] || 0) + n;
    const rows = Object.entries(sums).sort((a, b) => b[1] - a[1]).map(([code, n]) => ({ name: reason(code), title: code, value: n, text: count(n) }));
    put(refused, rows.length > 0 ? shares(rows, true) : h('p', { class: 'hint' }, 'Nothing was refused in 90 days. Refused requests take nothing from the key, and are listed here by reason.'));
  }
  async function refresh() {
    const mine = ++turn, [now, usage] = await Promise.all([api.get('keys/' + id, null, signal), api.get(`keys/${id}/usage`, null, signal)]);
    if (mine !== turn) return;
    k = now;
    draw();
    used(usage);
    behind(null);
  }
  const audit = () => part(trail, async () => entries((await api.get('audit', { key: id, sort: '-seq', limit: 50 }, signal)).entries, 'Nothing has been done to this key yet.'));
  const below = () => part(children, async () => {
    const { keys, next } = await api.get('keys', { parent: id, limit: 100 }, signal);
    if (keys.length === 0) return h('p', { class: 'hint' }, k.delegate ? 'None yet. The key’s holder mints them with POST /till/self/keys; their limits are taken out of this key’s.' : 'None. A key minted with “delegate” lets its holder mint smaller ones below it.');
    return h('ul', { class: 'rows' }, keys.map((c) => h('li', {}, h('div', { class: 'line' }, h('a', { href: '#/keys/' + c.id }, c.name || c.id), badge(c.status)),
      h('span', { class: 'hint' }, limitsOf(c).map((l) => `${l.label.toLowerCase()} ${l.text}`).join(' · ')))),
      next && h('li', { class: 'hint' }, `These are the newest ${keys.length}. To list all: caddy till list --parent ${id}`));
  });

  const card = (title, el) => h('section', { class: 'card' }, h('h2', {}, title), el);
  put(main, head, about, fresh, limits, h('div', { class: 'two' }, h('div', { class: 'stack' }, card('Use', chart), card('This key', details)),
    h('div', { class: 'stack' }, card('Refusals in 90 days, by reason', refused), kinds, card('Children', children), card('What was done to it', trail))));
  draw();
  below();
  audit();
  await refresh().catch(behind);
  every(signal, 3000, refresh, behind);
}
