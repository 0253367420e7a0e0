// Access: roles, and the admin tokens that have them.
import * as api from './api.js';
import { ask, field, h, heading, note, part, put, say, strike, time } from './dom.js';
import { showSecret } from './clients.js';

const write = (v) => (Array.isArray(v) ? v.join(', ') : v && typeof v === 'object' ? Object.entries(v).map(([k, w]) => `${k.replaceAll('_', ' ')} ${write(w)}`).join(', ') : String(v));

function roleCard(r) {
  const skip = new Set(['name', 'permissions', 'sees']);
  return h('section', { class: 'card' }, h('h2', {}, r.name), h('dl', { class: 'facts' }, [['May', (r.permissions || []).join(', ') || 'nothing'], ['Sees', r.sees === 'all' ? 'every key' : r.sees === 'role' ? 'keys of the role' : 'keys it minted'],
    ...Object.entries(r).filter(([k, v]) => !skip.has(k) && v !== null && v !== '' && !(Array.isArray(v) && v.length === 0)).map(([k, v]) => [k.replaceAll('_', ' '), write(v)])].map(([k, v]) => [h('dt', {}, k), h('dd', {}, v)])));
}

export async function accessPage({ main, signal, me, may }) {
  const roles = h('div', {}, h('p', { class: 'hint' }, 'Reading the roles…')), tokens = h('div', {}, h('p', { class: 'hint' }, 'Reading the tokens…')), fresh = h('div', { class: 'stack' });
  // A dialog may be opened before the roles are known.
  const choice = h('select', {});
  put(main, heading('Access', may('tokens:manage') && h('button', { type: 'button', class: 'primary', onclick: () => make() }, 'Create a token')),
    h('p', { class: 'faint' }, 'You are ', h('strong', {}, me.name), ', with ', me.role === '*' ? 'the operator’s permissions: everything.' : `role ${me.role}: ${me.permissions.join(', ') || 'no permissions'}.`), fresh,
    h('h2', { class: 'apart' }, 'Admin tokens'), tokens, h('h2', { class: 'apart' }, 'Roles'), roles);

  async function make() {
    const name = h('input', { type: 'text', required: true, maxlength: 200, autocomplete: 'off' }), expires = h('input', { type: 'text', value: '30d' });
    choice.selectedIndex = 0;
    const answer = await ask({
      title: 'Create an admin token', button: 'Create it', busy: 'Creating it…', signal,
      body: [h('p', { class: 'hint' }, 'For a person or a program that mints and manages keys. You can give only roles whose permissions and ceilings are within your own.'), field('Whose it is', 'The audit log shows this name for every act.', name), field('Role', 'What it may do.', choice), field('Ends after', 'Such as 24h or 30d.', expires)],
      act: () => api.post('tokens', { name: name.value.trim(), role: choice.value, ...(expires.value.trim() ? { expires_in: expires.value.trim() } : {}) }),
    });
    if (!answer) return;
    note(signal, fresh, `The token of ${answer.done.name}`, showSecret(answer.done.token)).dataset.of = answer.done.id;
    say(`The token of ${answer.done.name} is shown once.`);
    await list();
  }
  async function revoke(t) {
    const answer = await ask({ title: `Revoke the token of ${t.name}?`, button: 'Revoke', busy: 'Revoking…', danger: true, signal, body: h('p', {}, 'Its holder is signed out and can do nothing any more. Keys that it minted live on, and so do tokens that were made with it: those are named next.'), act: () => api.post(`tokens/${t.id}/revoke`) });
    if (!answer) return;
    const made = answer.done.made_tokens || [];
    say(`The token of ${t.name} is revoked.`);
    strike(t.id);
    if (made.length > 0) note(signal, fresh, `Made with the token of ${t.name}`,
      h('p', {}, 'These tokens still work. Revoke those that nobody vouches for.'), h('ul', { class: 'names' }, made.map((m) => h('li', { 'data-of': m.id }, `${m.name} (${m.id})`))));
    await list();
  }
  const list = () => part(tokens, async () => {
    const all = await api.all('tokens', 'tokens', signal);
    if (all.length === 0) return h('p', { class: 'hint' }, 'None yet. With a token a person signs in here, and a program calls the management API, each with the permissions of a role and no more. On the server: caddy till token create');
    // A narrow page shows cards instead of a table; the ARIA roles keep its meaning.
    const head = (text) => h('th', { role: 'columnheader', scope: 'col' }, text), cell = (label, ...kids) => h('td', { role: 'cell', 'data-label': label }, kids);
    const over = (t) => t.revoked_at || t.status === 'revoked' || t.status === 'expired';
    return h('table', { class: 'sheet', role: 'table', 'aria-label': 'Admin tokens' },
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, ['Name', 'Role', 'Created', 'Expires', 'Last use'].map(head), head(h('span', { class: 'hidden' }, 'Act')))),
      h('tbody', { role: 'rowgroup' }, all.map((t) => h('tr', { role: 'row' }, h('th', { role: 'rowheader', scope: 'row' }, t.name || t.id), cell('Role', t.role), cell('Created', time(t.created_at)), cell('Expires', time(t.expires_at)), cell('Last use', time(t.last_used_at)),
        h('td', { role: 'cell' }, over(t) ? h('span', { class: 'badge' }, t.status || 'revoked') : may('tokens:manage') && h('button', { type: 'button', class: 'small quiet danger-text', onclick: () => revoke(t) }, 'Revoke'))))));
  });
  list();
  await part(roles, async () => {
    const all = (await api.get('roles', null, signal)).roles || [];
    put(choice, all.map((r) => h('option', { value: r.name }, r.name)));
    if (all.length === 0) return h('p', { class: 'hint' }, 'None is configured. A role is a set of permissions and ceilings for people who mint keys. Declare one in the global till block: “role researcher { … }”.');
    return h('div', { class: 'cards' }, all.map(roleCard));
  });
}
