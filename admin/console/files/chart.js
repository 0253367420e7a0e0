// Charts of use over time: inline SVG, with the same figures as a table for people
// who cannot see the chart.
import { h, put, s, uid } from './dom.js';
import { compact, count, usd } from './text.js';

const HOUR = 3600e3, DAY = 24 * HOUR;
const measures = {
  requests: ['Requests', (b) => b.activations || 0, count],
  tokens: ['Tokens', (b) => b.tokens || 0, compact],
  spend: ['Spend', (b) => (b.spend_usd !== undefined ? Number(b.spend_usd) : (b.nanodollars || 0) / 1e9), (n) => usd(String(Number(n.toPrecision(6))))],
  refused: ['Refused', (b) => Object.values(b.refusals || {}).reduce((a, n) => a + n, 0), count],
};

// slots lays the buckets out over a span of time, gaps included.
function slots(buckets, size, n, now = Date.now()) {
  const by = new Map(buckets.map((b) => [new Date(b.start).getTime(), b]));
  const last = Math.floor(now / size) * size;
  return Array.from({ length: n }, (_, i) => { const at = last - (n - 1 - i) * size; return { at, b: by.get(at) || {} }; });
}

const day = (at) => new Date(at).toLocaleDateString('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' });
const hour = (at) => new Date(at).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', timeZone: 'UTC' });

function draw(all, measure, size, W) {
  const [name, value, write] = measures[measure];
  const H = 170, left = 52, bottom = 22, above = 8, w = W - left, hgt = H - bottom - above;
  const most = Math.max(...all.map(({ b }) => value(b)), 0);
  const top = most || 1, step = w / all.length, label = (at) => (size === DAY ? day(at) : day(at) + ' ' + hour(at));
  const id = uid('chart'), sum = all.reduce((a, { b }) => a + value(b), 0);
  const svg = s('svg', { class: 'chart', viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-labelledby': id },
    s('title', { id }, `${name} per ${size === DAY ? 'day' : 'hour'}: ${write(sum)} in all, at most ${write(most)}.`));
  for (const part of [0, 0.5, 1]) {
    const y = above + hgt * (1 - part);
    svg.append(s('line', { x1: left, x2: W, y1: y, y2: y }), most > 0 || part === 0 ? s('text', { x: left - 8, y: y + 4, 'text-anchor': 'end' }, part === 0.5 && measure !== 'spend' && most < 2 ? '' : write(measure === 'spend' ? most * part : Math.round(most * part))) : '');
  }
  all.forEach(({ at, b }, i) => {
    const v = value(b), tall = Math.max(v > 0 ? 2 : 0, (v / top) * hgt), x = left + i * step;
    if (v > 0) {
      svg.append(s('rect', { class: measure === 'refused' ? 'bad' : '', x: (x + step * 0.12).toFixed(1), y: (above + hgt - tall).toFixed(1), width: (step * 0.76).toFixed(1), height: tall.toFixed(1), rx: Math.min(2, step / 5) },
        s('title', {}, `${label(at)} UTC: ${write(v)}`)));
    }
    const marks = (size === DAY ? 7 : 12) * (W < 420 ? 2 : 1);
    if ((all.length - 1 - i) % marks === 0) svg.append(s('text', { x: x + step / 2, y: H - 5, 'text-anchor': i > all.length - 3 ? 'end' : 'middle' }, size === DAY ? day(at) : hour(at)));
  });
  const rows = all.filter(({ b }) => value(b) > 0);
  return [svg, h('details', {}, h('summary', {}, 'As a table'), rows.length === 0 ? h('p', { class: 'hint' }, 'Nothing yet.') : h('div', { class: 'scroll' }, h('table', {},
    h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, size === DAY ? 'Day, UTC' : 'Hour, UTC'), h('th', { scope: 'col', class: 'number' }, name))),
    h('tbody', {}, rows.reverse().map(({ at, b }) => h('tr', {}, h('th', { scope: 'row' }, label(at)), h('td', { class: 'number' }, write(value(b)))))))))];
}

// usageChart shows a history, by the hour or the day, in the measures that are not
// empty. It is updated in place.
export function usageChart() {
  const tabs = h('div', { class: 'tabs' }), shown = h('div', { class: 'stack' }, h('p', { class: 'hint' }, 'Reading…')), el = h('div', {}, tabs, shown);
  let per = 'hours', measure = 'requests', usage = null, was = '', listed = '';
  const pick = (text, on, f) => h('button', { type: 'button', class: 'small quiet', 'aria-pressed': String(on), onclick: () => { f(); was = ''; el.update(usage); } }, text);
  el.update = (now) => {
    if (!now) return; // it has another width, and nothing to show yet
    usage = now;
    const W = Math.max(260, Math.min(900, Math.round(shown.clientWidth || 560)));
    const key = JSON.stringify([now, per, measure, W, Math.floor(Date.now() / HOUR)]);
    if (key === was) return;
    const redraw = was === '' || !tabs.firstChild;
    was = key;
    const opened = shown.querySelector('details')?.open;
    const there = Object.keys(measures).filter((m) => m === 'requests' || m === measure || now.days.some((b) => measures[m][1](b) > 0));
    const focused = [...tabs.children].indexOf(document.activeElement);
    if (redraw || there.join() !== listed) {
      listed = there.join();
      put(tabs, pick('48 hours', per === 'hours', () => { per = 'hours'; }), pick('30 days', per === 'days', () => { per = 'days'; }),
        there.map((m) => pick(measures[m][0], m === measure, () => { measure = m; })));
      if (focused >= 0) tabs.children[focused]?.focus();
    }
    put(shown, per === 'hours' ? draw(slots(now.hours, HOUR, 48), measure, HOUR, W) : draw(slots(now.days, DAY, 30), measure, DAY, W));
    if (opened) shown.querySelector('details').open = true;
  };
  new ResizeObserver(() => el.update(usage)).observe(shown);
  return el;
}

// shares lists names, each with its share of the whole.
export function shares(rows, bad) {
  const most = Math.max(...rows.map((r) => r.value), 1e-12);
  return h('ul', { class: 'rows' }, rows.map((r) => {
    const fill = h('div', {});
    fill.style.width = (100 * r.value) / most + '%';
    return h('li', {}, h('div', { class: 'line' }, h('span', { title: r.title }, r.name), h('span', { class: 'number' }, r.text)), r.more && h('span', { class: 'hint' }, r.more), h('div', { class: 'meter' + (bad ? ' bad' : '') }, fill));
  }));
}
