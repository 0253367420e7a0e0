// Activity: events as they happen, and the audit log.
import * as api from './api.js';
import { h, heading, part, put, time } from './dom.js';
import { count, reason } from './text.js';
import { entries } from './audit.js';
import { follow } from './feed.js';

const MOST = 200;
const names = {
  key_created: 'minted', key_threshold: 'reached a threshold', key_exhausted: 'is exhausted', key_expired: 'expired', key_revoked: 'was revoked', key_suspended: 'was suspended',
  key_stale: 'is stale', key_leaked: 'leaked', key_after_death: 'was used although it is dead', token_created: 'admin token created', lockdown: 'lockdown',
};

function line(name, e) {
  const d = e.data || e, id = d.key_id, of = d.limit_of || d.kind;
  const more = [d.percent && `${d.percent} % of ${String(of || 'a limit').replace('_usd', '').replaceAll('_', ' ')}`, d.code && reason(d.code), d.reason && d.reason !== d.code && d.reason, d.token_name && `for ${d.token_name}`, d.count > 1 && `${d.count} times`, d.from && `from ${d.from}`, d.by && `by ${d.by}`, d.upstream && `for ${d.upstream}`].filter(Boolean);
  return h('li', {}, time(d.time || e.timestamp || new Date().toISOString()), h('span', {}, id && [h('a', { href: '#/keys/' + id }, d.key_name || id), ' '], h('strong', {}, names[name] || name.replaceAll('_', ' '))), more.length > 0 && h('span', { class: 'detail' }, more.join(' · ')));
}

export async function activityPage({ main, signal, q, go }) {
  const live = h('ol', { class: 'log', 'aria-live': 'off' }), state = h('p', { class: 'hint', role: 'status' }, 'Connecting…'), log = h('div', {}, h('p', { class: 'hint' }, 'Reading the audit log…'));
  const actor = h('input', { type: 'text', id: 'actor', value: q.actor || '', autocomplete: 'off' }), action = h('input', { type: 'text', id: 'action', value: q.action || '', autocomplete: 'off', placeholder: 'key.revoke' });
  const chain = h('p', { class: 'hint', role: 'status' });
  const verify = () => part(chain, async (tell) => {
    tell('Checking every entry…');
    try { const a = await api.patiently('audit/verify', signal); return a.ok ? `The chain is complete: ${count(a.entries)} entries, head ${a.head}.` : `The chain is broken at entry ${a.seq}: ${a.why}.`; } catch (e) { return e.sentence || e.message; }
  });
  put(main, heading('Activity'), h('div', { class: 'two' },
    h('section', { class: 'card' }, h('h2', {}, 'Happening now'), state, live),
    h('section', { class: 'card' }, h('h2', {}, 'Audit log'), h('p', { class: 'hint' }, 'Every administrative act and every end of a key, in a chain of hashes.'), chain,
      h('form', { class: 'controls', onsubmit: (e) => { e.preventDefault(); go('activity', { actor: actor.value.trim(), action: action.value.trim() }); } },
        h('div', { class: 'control' }, h('label', { for: 'actor' }, 'By'), actor), h('div', { class: 'control' }, h('label', { for: 'action' }, 'Act'), action), h('button', { type: 'submit' }, 'Filter'), h('button', { type: 'button', class: 'quiet', onclick: verify }, 'Verify the chain')), log)));
  follow(signal, (name, e) => {
    if (name === 'end') return;
    live.prepend(line(name, e));
    while (live.children.length > MOST) live.lastChild.remove();
    put(state);
  }, (how) => {
    if (how === 'open') put(state, live.children.length ? '' : 'Nothing yet. Mints, thresholds, ends and revocations appear here as they happen.');
    else put(state, how === 'gone' ? 'The connection was lost; trying again…' : how);
  });
  const older = (cursor, before) => part(log, async () => {
    const page = await api.get('audit', { actor: q.actor, action: q.action, sort: '-seq', limit: 50, cursor }, signal);
    const all = [...before, ...page.entries];
    return [entries(all, q.actor || q.action ? 'No entry matches.' : 'Nothing has been done yet.', true), page.next && h('button', { type: 'button', class: 'small', onclick: () => older(page.next, all) }, 'Show older entries')];
  });
  await older('', []);
}
