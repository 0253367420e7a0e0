// A key's string, which is shown once, and the lines that put it into tools.
import * as api from './api.js';
import { copier, h, snippet } from './dom.js';

// The server writes this in place of the key's string, which it does not have.
const blank = 'till_sk_...';

// showSecret is a string that will not be shown again.
export const showSecret = (text) => h('div', { class: 'once' }, h('div', { class: 'secret' }, h('code', {}, text), copier(text, 'the key')),
  h('p', { class: 'hint' }, 'Copy it now: it is shown only this once, and the server keeps only its hash.'));

// clientLines are the exact lines for each tool, with the key in them.
export async function clientLines(k) {
  let answer;
  try { answer = await api.get(`upstreams/${encodeURIComponent(k.upstream)}/clients`); } catch (e) {
    return h('p', { class: 'hint' }, 'The lines for each tool could not be read: ' + (e.sentence || e.message) + ' “caddy till env” prints them, too.');
  }
  return h('div', { class: 'stack' }, h('h2', {}, 'Put it to use'),
    !answer.base_url && h('p', { class: 'hint' }, 'Fill in your server’s address: its configuration has none (public_url).'),
    answer.clients.map((c, i) => h('details', { open: i === 0 }, h('summary', {}, c.name), h('div', { class: 'stack' }, c.note && h('p', { class: 'hint' }, c.note),
      snippet(c.lines.join('\n').replaceAll(blank, k.scoped_key), `the lines for ${c.name}`)))));
}
