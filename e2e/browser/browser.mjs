// What the flows share: a browser that fails when the page breaks one of its
// own rules, and checks that say what they saw.
import { chromium } from 'playwright-core';

export function check(ok, ...what) {
  if (!ok) throw new Error(what.map((w) => (typeof w === 'string' ? w : JSON.stringify(w))).join(' '));
}

// patience bounds every wait, in milliseconds; it decides nothing but how a hang
// is reported.
const patience = 300000;

// until waits for something to become true.
export async function until(what, f) {
  const end = Date.now() + patience;
  let last;
  for (;;) {
    last = await f();
    if (last) return last;
    if (Date.now() > end) throw new Error('never: ' + what);
    await new Promise((resolve) => setTimeout(resolve, 25)); // between two looks
  }
}

// launch starts the browser: CHROMIUM says which. Flows only visit our own server, so
// few processes are enough, and none is started before it is needed.
export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM, timeout: patience,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-features=SpareRendererForSitePerProcess', '--disable-site-isolation-trials', '--renderer-process-limit=1', '--in-process-gpu'],
});

// visit is what a flow uses a server with: the plan says where that is, and with which
// tokens. Several flows share the browser, each in contexts of its own.
export function visit(browser, plan) {
  async function browse(options, flow) {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    try {
      context.setDefaultTimeout(patience);
      const wrong = [], allowed = [];
      const watch = (page) => {
        page.on('console', (m) => { if (['error', 'warning'].includes(m.type()) && !allowed.some((a) => m.text().includes(a))) wrong.push(`console: ${m.text()} (${m.location().url})`); });
        page.on('pageerror', (e) => wrong.push(`page: ${e.stack || e}`));
        page.on('request', (r) => { if (!r.url().startsWith(plan.base + '/')) wrong.push(`a request to another place: ${r.url()}`); });
      };
      context.on('page', watch);
      await context.exposeBinding('tillViolated', (_, text) => wrong.push('content security policy: ' + text));
      await context.addInitScript(() => addEventListener('securitypolicyviolation', (e) => globalThis.tillViolated(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`)));
      // What a page says, it takes back some seconds later, whether or not a flow has looked.
      await context.addInitScript(() => {
        globalThis.tillSaid = [];
        new MutationObserver(() => {
          const text = document.getElementById('said')?.textContent;
          if (text && text !== globalThis.tillSaid.at(-1)) globalThis.tillSaid.push(text);
        }).observe(document, { childList: true, subtree: true });
      });
      // Safari before 17.4, Firefox before 124 and Chrome before 116 have none.
      await context.addInitScript(() => { delete AbortSignal.any; });
      const page = await context.newPage();
      // expecting lets the browser's own line about an answer pass that the flow
      // is about, such as a 401 for a wrong token.
      const expecting = (text) => allowed.push(text);
      let value;
      try { value = await flow({ page, context, expecting }); } catch (e) {
        const at = `${page.url()}\n${(await page.locator('body').innerText().catch(() => '')).replace(/\s*\n\s*/g, ' | ').slice(0, 1500)}`;
        throw new Error(`${e.stack}\n--- at ${at}\n--- ${wrong.join('\n')}`);
      }
      check(wrong.length === 0, 'the page broke its rules:\n' + wrong.join('\n'));
      return value;
    } finally { await context.close(); }
  }

  // signIn opens the console with an admin token.
  async function signIn(page, token = plan.token) {
    await page.goto(plan.base + '/till/');
    await page.getByLabel('Admin token').fill(token);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
  }

  // open goes to a page of the console.
  async function open(page, where, heading) {
    await page.goto(`${plan.base}/till/#/${where}`);
    await page.getByRole('heading', { name: heading, level: 1 }).waitFor();
  }

  // said waits until a page has said a text since it was loaded.
  const said = (page, text) => until(`the page says “${text}”`, () => page.evaluate((text) => globalThis.tillSaid.some((t) => t.includes(text)), text));

  // hold keeps back what the server answers for an address. asked waits for the first such
  // answer, and lets later ones through; come waits until the page has those that were held.
  async function hold(page, url, change = (answer) => answer) {
    let first, free, through = false;
    const some = new Promise((resolve) => { first = resolve; }), freed = new Promise((resolve) => { free = resolve; }), held = [];
    const keep = async (route) => {
      const response = await route.fetch(), json = change(await response.json());
      first();
      await freed;
      await route.fulfill({ response, json });
      await (await route.request().response())?.finished();
    };
    // It stays: the browser sends what a last route holds when that is taken away.
    await page.context().route(url, (route) => { if (through) return route.fallback(); held.push(keep(route)); });
    return {
      asked: async () => { await some; through = true; },
      come: async () => { free(); await Promise.all(held); await page.evaluate(() => new Promise((resolve) => setTimeout(resolve))); },
    };
  }

  // chat uses a key; it answers with the status.
  async function chat(key) {
    const answer = await fetch(plan.keys + '/v1/chat/completions', {
      method: 'POST', headers: { Authorization: 'Bearer ' + key, 'Content-Type': 'application/json' },
      body: JSON.stringify({ model: 'gpt-5-mini', max_completion_tokens: 40, messages: [{ role: 'user', content: 'hi' }] }),
    });
    await answer.arrayBuffer();
    return answer.status;
  }

  // api calls the management API with the token, as a program would.
  async function api(method, path, body, token = plan.token) {
    const answer = await fetch(`${plan.base}/till/api/${path}`, {
      method, headers: { Authorization: 'Bearer ' + token, ...(body ? { 'Content-Type': 'application/json' } : {}) }, body: body && JSON.stringify(body),
    });
    const text = await answer.text();
    return { code: answer.status, ...(text ? JSON.parse(text) : {}) };
  }

  // mint makes a key over the API.
  async function mint(fields) {
    const k = await until('the store answers a mint', async () => { // its disk may be busy
      const answer = await api('POST', 'keys', { upstream: 'mock', ...fields });
      return answer.code !== 503 && answer;
    });
    check(k.code === 201, 'mint', k);
    return k;
  }

  return { api, browse, chat, hold, mint, open, plan, said, signIn };
}
