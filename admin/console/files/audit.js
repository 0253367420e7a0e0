// Entries of the audit log.
import { h, time } from './dom.js';

const write = (v) => (v === null || v === undefined || v === '' ? 'nothing' : Array.isArray(v) ? v.join(', ') : typeof v === 'object' ? JSON.stringify(v) : String(v));

// changesOf writes what an act changed: {field: [before, after]}, or a list of
// {field, from, to}.
function changesOf(changes) {
  if (!changes) return '';
  const each = Array.isArray(changes) ? changes.map((c) => [c.field || c.name, c.from ?? c.before, c.to ?? c.after])
    : Object.entries(changes).map(([f, v]) => (Array.isArray(v) ? [f, ...v] : v && typeof v === 'object' ? [f, v.from ?? v.before, v.to ?? v.after] : [f, undefined, v]));
  return each.map(([f, from, to]) => (from === undefined || from === null || from === '' ? `${f.replaceAll('_', ' ')} ${write(to)}` : `${f.replaceAll('_', ' ')} from ${write(from)} to ${write(to)}`)).join(' · ');
}

// entries lists them, the newest first.
export function entries(list, none, keys) {
  if (list.length === 0) return h('p', { class: 'hint' }, none);
  return h('ol', { class: 'log' }, [...list].sort((a, b) => b.seq - a.seq).map((e) => h('li', {}, time(e.time),
    h('span', {}, h('strong', {}, String(e.action).replaceAll(/[_.]/g, ' ')), ' by ', e.actor, e.from && h('span', { class: 'faint' }, ' from ' + e.from),
      keys && e.key && [' · ', e.key.startsWith('key_') ? h('a', { class: 'mono', href: '#/keys/' + e.key }, e.key) : h('span', { class: 'mono' }, e.key)]),
    changesOf(e.changes) && h('span', { class: 'detail' }, changesOf(e.changes)))));
}
