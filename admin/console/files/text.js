// How figures, times and statuses are written. Amounts of money are only shown here,
// never computed with.
const whole = new Intl.NumberFormat('en-US');
const short = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 });

export const count = (n) => whole.format(n);
export const compact = (n) => (Math.abs(n) < 10000 ? whole.format(n) : short.format(n));

// usd formats an amount of the API, which is a text such as "4.99731".
export function usd(text) {
  const n = Number(text || 0);
  if (n !== 0 && Math.abs(n) < 0.01) return '$' + Number(n.toPrecision(2)).toFixed(9).replace(/0+$/, '');
  return '$' + n.toLocaleString('en-US', { minimumFractionDigits: 2, maximumFractionDigits: n < 1 ? 4 : 2 });
}

export const plural = (n, one, many = one + 's') => count(n) + ' ' + (n === 1 ? one : many);

const units = [['y', 31557600], ['mo', 2629800], ['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

// span writes a duration in its two largest units.
export function span(seconds) {
  let left = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [name, size] of units) {
    if (left >= size && parts.length < 2) { parts.push(Math.floor(left / size) + ' ' + name); left %= size; } else if (parts.length) break;
  }
  return parts.join(' ') || '0 s';
}

export function relative(iso, now = Date.now()) {
  const seconds = (new Date(iso) - now) / 1000, far = Math.abs(seconds);
  if (far < 5) return 'just now';
  const [name, size] = units.find(([, size]) => far >= size);
  const text = Math.floor(far / size) + ' ' + name;
  return seconds < 0 ? text + ' ago' : 'in ' + text;
}

// exact is a moment in the reader's own time and in UTC.
export function exact(iso) {
  const d = new Date(iso);
  return d.toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'medium' }) + ' (' + d.toISOString().replace('.000', '') + ')';
}

// limitsOf lists the limits of a key, with what is left of each.
export function limitsOf(k, now = Date.now()) {
  const all = [];
  const add = (kind, label, left, limit, held, text) => all.push({
    kind, label, text, share: limit > 0 ? Math.max(0, Math.min(1, left / limit)) : 0, held: limit > 0 ? Math.min(1, held / limit) : 0,
  });
  if (k.max_activations !== undefined) {
    add('activations', 'Activations', k.remaining_activations, k.max_activations, k.held_activations || 0,
      `${compact(k.remaining_activations)} of ${compact(k.max_activations)} left`);
  }
  if (k.max_tokens !== undefined) {
    add('tokens', 'Tokens', k.remaining_tokens, k.max_tokens, k.held_tokens || 0, `${compact(k.remaining_tokens)} of ${compact(k.max_tokens)} left`);
  }
  if (k.max_spend_usd) {
    add('spend', 'Spend', Number(k.remaining_spend_usd), Number(k.max_spend_usd), Number(k.held_spend_usd || 0),
      `${usd(k.remaining_spend_usd)} of ${usd(k.max_spend_usd)} left`);
  }
  if (k.expires_at) {
    const end = new Date(k.expires_at), left = (end - now) / 1000;
    add('time', 'Time', left, (end - new Date(k.created_at)) / 1000, 0, left > 0 ? span(left) + ' left' : 'over');
  }
  return all;
}

// reasons says in words why a request was refused.
export const reasons = {
  till_activations_exhausted: 'activations used up', till_tokens_exhausted: 'tokens used up', till_spend_exhausted: 'spend used up',
  till_key_expired: 'expired', till_key_idle: 'idle for too long', till_budget_too_small: 'one request could cost more than is left',
  till_key_revoked: 'revoked', till_key_suspended: 'suspended', till_locked_down: 'locked down',
  till_wrong_upstream: 'wrong upstream', till_path_not_allowed: 'path not allowed', till_method_not_allowed: 'method not allowed',
  till_model_not_allowed: 'model not allowed', till_ip_not_allowed: 'address not allowed', till_upgrade_not_allowed: 'upgrade not allowed', till_too_early: 'sent too early',
  till_price_unknown: 'price not known', till_not_meterable: 'cannot be metered', till_rate_limited: 'too fast',
  till_concurrency: 'too many at once', till_budget_held: 'what is left is held by requests in flight', till_bad_request: 'bad request',
  till_body_too_large: 'body too large', till_store_unavailable: 'store not available', till_upstream_unknown: 'upstream not configured',
  till_upstream_failed: 'upstream failed', till_upstream_auth_failed: 'upstream refused the credential', till_upstream_changed: 'upstream moved',
};
export const reason = (code) => reasons[code] || String(code).replace(/^till_/, '').replaceAll('_', ' ');

// statuses explains each status to people who see it for the first time.
export const statuses = {
  active: 'Works until a limit is reached', exhausted: 'A budget is used up; a grant revives it', expired: 'Its time has run out; a grant of time revives it',
  revoked: 'Ended for ever', suspended: 'Stopped until it is resumed',
};
