// Minting: a form that explains each limit, and the key, once.
import * as api from './api.js';
import { field, h, heading, note, problem, put, say, seat, sentence, uid } from './dom.js';
import { compact, usd } from './text.js';
import { clientLines, showSecret } from './clients.js';

// ceiling is what the caller's role allows, as a sentence.
const ceiling = (value, write) => value !== undefined && value !== null && value !== '' && value !== 0 && h('span', { class: 'ceiling' }, ` Your role allows up to ${write(value)}; empty means that.`);
const among = (values) => Array.isArray(values) && values.length > 0 && h('span', { class: 'ceiling' }, ` Your role allows: ${values.join(', ')}.`);
const split = (text) => text.split(/[\s,]+/).filter(Boolean);

export async function mintPage({ main, signal, me, may, go }) {
  const [{ upstreams }, roles] = await Promise.all([api.get('upstreams', null, signal), api.get('roles', null, signal).then((a) => a.roles || [], () => [])]);
  signal.throwIfAborted(); // roles that do not come are no failure, but a page that was left is not drawn
  const top = roles.find((r) => r.name === me.role) || {}; // the ceilings of the caller's role
  const wanted = {}; // field of the API → its input, and how it is read
  const add = (name, label, hint, input, read, extra) => { wanted[name] = [input, read]; return field(label, hint, input, extra); };
  const text = (more) => h('input', { type: 'text', autocomplete: 'off', ...more });
  const number = (more) => h('input', { type: 'number', min: 0, step: 1, inputmode: 'numeric', ...more });
  const money = (more) => text({ inputmode: 'decimal', pattern: '\\d+(\\.\\d{1,9})?', title: 'An amount such as 5.00', ...more });
  const check = (name, label, hint, on, read) => {
    const input = h('input', { type: 'checkbox', checked: on, id: uid('f') });
    input.setAttribute('aria-describedby', input.id + '-hint');
    wanted[name] = [input, read || (() => (input.checked === on ? undefined : input.checked))];
    return h('div', {}, h('div', { class: 'check' }, input, h('label', { for: input.id }, label)), h('p', { class: 'hint', id: input.id + '-hint' }, hint));
  };
  const asText = (i) => i.value.trim() || undefined, asNumber = (i) => (i.value === '' ? undefined : Number(i.value));
  const asList = (i) => (split(i.value).length ? split(i.value) : undefined), asPairs = (i) => {
    const all = split(i.value).map((p) => p.split('='));
    if (all.some((p) => p.length !== 2 || !p[0])) throw new Error('Labels are written name=value, with spaces between them.');
    return all.length ? Object.fromEntries(all) : undefined;
  };
  const select = (options) => h('select', {}, options.map(([v, t]) => h('option', { value: v }, t)));
  const mine = (names) => names.filter((u) => !Array.isArray(top.upstreams) || top.upstreams.length === 0 || top.upstreams.includes(u.name));
  const spans = h('datalist', { id: 'spans' }, ['1h', '8h', '24h', '7d', '30d', '90d'].map((v) => h('option', { value: v })));
  const first = mine(upstreams);
  const pick = select(first.map((u) => [u.name, u.held ? u.name : u.name + ' (needs its real key, below)']));
  pick.required = true;

  const name = text({ maxlength: 200, placeholder: 'nightly' });
  const form = h('form', { class: 'form', novalidate: false },
    h('fieldset', { class: 'card' }, h('legend', { class: 'hidden' }, 'The key'), h('div', { class: 'grid' },
      add('name', 'Name', 'For people: who or what uses it.', name, asText),
      add('upstream', 'Upstream', 'The one API that the key opens.', pick, asText, among(top.upstreams)))),
    h('fieldset', { class: 'card' }, h('legend', {}, 'Limits'), h('p', { class: 'hint' }, 'Set at least one. When the key reaches any of them it is dead, and says so. No limit is ever exceeded: what a request may use is held before the request is forwarded.'),
      h('div', { class: 'grid' },
        add('max_activations', 'Activations', 'How many requests are forwarded. Retries that Caddy makes are part of one. 0 makes a canary: any use is refused and reported.', number({ placeholder: '500' }), asNumber, ceiling(top.max_activations, compact)),
        add('max_tokens', 'Tokens', 'Input, cached input, output and reasoning together.', number({ placeholder: '1000000' }), asNumber, ceiling(top.max_tokens, compact)),
        add('max_spend_usd', 'Spend (USD)', 'What the answers cost, by the price table. Models without a known price are refused.', money({ placeholder: '5.00' }), asText, ceiling(top.max_spend_usd, usd)),
        add('expires_in', 'Expires in', 'From now, such as 90m, 24h or 7d.', text({ placeholder: '24h', list: 'spans' }), asText, ceiling(top.max_lifetime, String)), spans)),
    h('details', { class: 'card' }, h('summary', {}, 'Scope: models, paths, addresses'), h('p', { class: 'hint' }, 'Least privilege: a key that may do only what its work needs is worth little to a thief. Separate several entries by spaces.'), h('div', { class: 'grid' },
      add('models', 'Models', 'Exact ids, or beginnings with a * at the end.', text({ placeholder: 'gpt-5-mini claude-haiku-*' }), asList, among(top.models)),
      add('methods', 'Methods', 'Such as GET or POST.', text({ placeholder: 'POST' }), asList, among(top.methods)),
      add('paths', 'Paths', 'From the root, with a * at the end for everything below.', text({ placeholder: '/v1/chat/completions' }), asList, among(top.paths)),
      add('ips', 'Client addresses', 'Addresses or networks that may use it.', text({ placeholder: '10.0.0.0/8' }), asList, among(top.ips)),
      check('pin_ip', 'Only the first address', 'Only the first address that uses the key may go on using it.', false))),
    h('details', { class: 'card' }, h('summary', {}, 'More limits'), h('div', { class: 'grid' },
      add('max_request_spend_usd', 'One request, at most (USD)', 'A single request that could cost more is refused.', money({ placeholder: '0.25' }), asText),
      add('renews', 'Budgets renew', 'By the calendar, in UTC. What is left is not carried over.', select([['', 'Never'], ['day', 'Each day'], ['week', 'Each week'], ['month', 'Each month']]), asText),
      add('rate', 'Rate', 'How many requests in how much time.', text({ placeholder: '60/m' }), asText),
      add('max_concurrency', 'At once', 'How many requests may run at the same time.', number({ placeholder: '4' }), asNumber),
      add('first_use_within', 'First use within', 'The key ends if nobody uses it by then.', text({ placeholder: '1h', list: 'spans' }), asText),
      add('idle_timeout', 'Ends when idle for', 'The key ends when nobody has used it for this long.', text({ placeholder: '7d', list: 'spans' }), asText),
      add('charge', 'What counts', 'Activations of failed answers can be given back, for at most twice as many attempts.', select([['', 'Each forwarded request'], ['success', 'Successful answers only']]), asText),
      add('unknown_price', 'Unknown prices', 'What a limit in dollars does with them.', select([['', 'As the server is configured'], ['refuse', 'Refuse'], ['count_only', 'Let through, count only tokens']]), asText),
      check('fit', 'Shorten answers to what is left', 'The output limit of a request is lowered to what is left of the budget, instead of refusing the request.', true))),
    h('details', { class: 'card' }, h('summary', {}, 'Notes, custody and delegation'), h('div', { class: 'grid' },
      add('owner', 'Owner', 'Who is responsible for it.', text({ maxlength: 200 }), asText), add('purpose', 'Purpose', 'What it is for.', text({ maxlength: 200 }), asText),
      add('labels', 'Labels', 'To find keys by, such as team=data env=prod.', text(), asPairs),
      may('*') && roles.length > 0 && add('role', 'Role', 'Its ceilings and its shared budget apply.', select([['', 'None'], ...roles.map((r) => [r.name, r.name])]), asText),
      add('upstream_key', 'Real key to seal', 'It is sealed into the scoped key, and the server does not keep it. Leave this empty to use the server’s own.', h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false' }), asText),
      check('delegate', 'Its holder may mint smaller keys', 'Their limits are taken out of this key’s.', false), check('self_revoke', 'Its holder may revoke it', 'With DELETE /till/self.', true),
      check('unlimited', 'No limit at all', 'Nothing ends this key by itself. Choose this only if you mean it.', false))));
  const wrong = h('div', { 'aria-live': 'assertive' }), button = h('button', { type: 'submit', class: 'primary' }, 'Mint key');
  form.append(wrong, h('div', { class: 'actions' }, button, h('button', { type: 'button', onclick: () => go('keys') }, 'Cancel')));
  const once = api.doneOnce(); // neither a second click nor a lost answer mints a second key
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    put(button, 'Minting…');
    put(wrong);
    const who = seat();
    try {
      const body = {};
      for (const [field, [input, read]] of Object.entries(wanted)) { const v = read(input); if (v !== undefined) body[field] = v; }
      const key = await api.post('keys', body, once(body));
      if (!who.aborted) await minted({ main, signal, go }, key);
    } catch (e) {
      if (signal.aborted) { if (!who.aborted) say('Mint key: ' + sentence(e), true); return; }
      put(wrong, problem(e));
      const about = Object.keys(wanted).find((n) => String(e.message).startsWith(n));
      if (about) { const el = wanted[about][0], d = el.closest('details'); if (d) d.open = true; el.setAttribute('aria-invalid', 'true'); el.focus(); }
      put(button, 'Mint key');
      button.disabled = false;
    }
  });
  form.addEventListener('input', (e) => e.target.removeAttribute('aria-invalid'));
  put(main, heading('Mint a key'), h('p', { class: 'faint' }, 'A key that stands for a real one, until its limit is reached.'), first.length === 0
    ? h('p', { class: 'problem' }, 'There is no upstream that you may mint keys for. An operator declares upstreams in the global options of the Caddyfile.') : form);
  name.focus();
}

// minted shows the new key: in place of the form, or above the page that is open by now.
async function minted({ main, signal, go }, key) {
  const title = key.name ? `${key.name} is minted` : 'The key is minted';
  const again = h('div', { class: 'actions below' }, h('button', { type: 'button', onclick: () => go('keys/' + key.id) }, 'Open this key'), h('button', { type: 'button', onclick: () => go('keys') }, 'All keys'));
  if (!key.scoped_key) {
    const lost = 'An earlier try minted this key, and its string is not shown a second time. If you have lost the string, rotate the key.';
    if (signal.aborted) say(lost, true); else put(main, heading('Already minted'), h('p', {}, lost), again);
    return;
  }
  const lines = h('div', { class: 'below' }, h('p', { class: 'hint' }, 'Reading the lines for each tool…'));
  if (signal.aborted) {
    note(signal, main, title, showSecret(key.scoped_key), lines).dataset.of = key.id;
    say(title + ': its string is shown once.');
  } else {
    put(main, heading(title), showSecret(key.scoped_key), lines, again);
    main.querySelector('h1').focus();
  }
  put(lines, await clientLines(key));
}
