// Flows in which something is not as it should be.
import { check, until } from './browser.mjs';

// away loses the server for a while. That says nothing of the keys, and ends
// no session.
export const away = ({ browse, plan, signIn }) => browse({}, async ({ page, context, expecting }) => {
  expecting('Failed to load resource');
  expecting('Failed to fetch dynamically imported module');
  await signIn(page);
  await page.getByRole('heading', { name: 'No keys yet' }).waitFor();
  await context.setOffline(true);
  await page.getByRole('alert').getByText('there is no answer from the server', { exact: false }).waitFor();
  check(!(await page.locator('#notice').innerText()).includes('refused'), 'the page takes a lost connection for a closed store');
  await page.goto(plan.base + '/till/#/estate');
  const main = page.locator('main');
  await main.getByRole('alert').getByText('There is no answer from the server').waitFor();
  await context.setOffline(false);
  await until('the notice goes', async () => await page.locator('#notice').innerText() === '');
  await main.getByRole('button', { name: 'Try again' }).click();
  await page.getByRole('heading', { name: 'Estate' }).waitFor();

  await context.route('**/till/session', (route) => route.abort());
  await page.reload();
  await main.getByRole('alert').getByText('There is no answer from the server').waitFor();
  await context.unroute('**/till/session');
  await main.getByRole('button', { name: 'Try again' }).click();
  await page.getByRole('heading', { name: 'Estate' }).waitFor();
});

// address opens what somebody mistyped, or was sent.
export const address = ({ browse, open, signIn }) => browse({}, async ({ page }) => {
  await signIn(page);
  for (const odd of ['%', 'keys/%E0%A4%A', 'keys/key_', 'nowhere?x=%']) await open(page, odd, 'There is no such page');
  await page.goto('about:blank'); // and not only from within
  await open(page, '%', 'There is no such page');
  await page.getByRole('link', { name: 'All keys', exact: true }).click();
  await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
});

// many filters very many keys by what has no index, as a server with 100,000
// answers: page by page. That is not done over and over.
export const many = ({ api, browse, mint, plan, signIn }) => browse({}, async ({ page, context }) => {
  const last = await mint({ name: 'found', max_activations: 5, labels: { team: 'data' } });
  await signIn(page);
  let calls = 0, letGo;
  const kept = new Promise((resolve) => { letGo = resolve; });
  await context.route('**/till/api/keys?*label.team*', async (route) => {
    calls++;
    const far = new URL(route.request().url()).searchParams.get('cursor');
    if (far && route.request().url().includes('kept')) await kept;
    const here = far === 'p10' || (far && route.request().url().includes('late'));
    await route.fulfill({ json: here ? { keys: [await api('GET', 'keys/' + last.id)] } : { keys: [], partial: true, next: 'p' + ((far ? Number(far.slice(1)) : 0) + 1) } });
  });
  await page.clock.install();
  await page.clock.pauseAt(Date.now() + 3600000); // it would go on by itself, and a slow machine's seconds are none of the page's
  await page.goto(plan.base + '/till/#/keys?label=team%3Ddata');
  await page.getByRole('heading', { name: 'No key matches' }).waitFor();
  check(calls === 10, 'it looked', calls, 'times at first');
  await page.clock.runFor(20000);
  await api('PATCH', 'keys/' + last.id, { purpose: 'an event' });
  await page.clock.runFor(5000);
  check(calls === 10, 'it went on looking:', calls, 'times');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('row', { name: /found/ }).waitFor();
  await page.getByLabel('Label').fill('team=late');
  await page.getByLabel('Label').press('Enter');
  await until('the list is read in parts', () => calls === 13);
  await page.getByRole('row', { name: /found/ }).waitFor(); // after the page said that it looks
  // A list that somebody waits for is read to its end, whatever happens meanwhile.
  await page.getByLabel('Label').fill('team=kept-late');
  await page.getByLabel('Label').press('Enter');
  await until('its second part is asked for', () => calls === 15);
  await mint({ name: 'event', max_activations: 5 });
  await page.clock.runFor(5000);
  letGo();
  await page.getByRole('row', { name: /found/ }).waitFor();
  check(calls === 15, 'it was read once more:', calls, 'calls');
});

// ticks ticks keys in a list that changes: what can be ended are the keys with a tick.
export const ticks = ({ browse, mint, signIn }) => browse({}, async ({ page, context, expecting }) => {
  const ids = [];
  for (const name of ['one', 'two', 'three']) ids.push((await mint({ name, max_activations: 5 })).id);
  const dialog = page.getByRole('dialog'), end = page.getByRole('button', { name: /^End \d+ chosen/ }), ticked = page.locator('.keys input:checked');
  const sort = async (value, first) => {
    await page.getByLabel('Sort').selectOption(value);
    await until('the list is sorted', async () => await page.locator('.keys tbody tr').first().getAttribute('data-id') === first);
  };
  await signIn(page);
  for (const name of ['one', 'two']) await page.getByLabel('Choose ' + name).check();
  await page.getByRole('button', { name: 'End 2 chosen keys' }).click();
  for (const name of ['one', 'two']) await dialog.getByRole('listitem').getByText(name, { exact: true }).waitFor();
  check(await dialog.getByRole('listitem').count() === 2, 'it names other keys than those with a tick');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  check(await ticked.count() === 2, 'Cancel takes ticks away');
  await sort('created', ids[0]);
  check(await ticked.count() === 0 && await end.count() === 0, 'ticks of the former list stay');
  await page.getByLabel('Choose all on this page').check();
  await page.getByRole('button', { name: 'End 3 chosen keys' }).waitFor();
  await sort('-created', ids[2]);
  check(await ticked.count() === 0 && await end.count() === 0, 'ticks of the former list stay');

  // A list that is drawn anew after it could not be read.
  for (const name of ['one', 'two']) await page.getByLabel('Choose ' + name).check();
  expecting('status of 500');
  await context.route('**/till/api/keys?*', (route) => route.fulfill({ status: 500, json: {} }));
  await page.getByRole('row', { name: /three/ }).getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await page.locator('main').getByRole('alert').getByText('The server answered 500.').waitFor();
  await context.unroute('**/till/api/keys?*');
  await page.getByRole('row', { name: /three/ }).waitFor();
  check(await ticked.count() === 0 && await end.count() === 0, 'keys without a tick can be ended');
});

// steady has the focus in a row while one above it goes, or moves down, and while it moves.
export const steady = ({ api, browse, mint, open, signIn }) => browse({}, async ({ page, context }) => {
  const first = await mint({ name: 'first', max_activations: 5 });
  const second = await mint({ name: 'second', max_activations: 5 });
  const third = await mint({ name: 'third', max_activations: 5 });
  await signIn(page);
  await open(page, 'keys?status=active', 'Keys');
  await page.getByRole('button', { name: 'End all that match…' }).waitFor(); // the former list, of all keys, has none
  const revoke = page.getByRole('row', { name: /second/ }).getByRole('button', { name: 'Revoke' });
  await revoke.focus();
  check((await api('POST', `keys/${third.id}/revoke`)).code === 200, 'the key is not revoked');
  await until('its row is gone', async () => await page.getByRole('row', { name: /third/ }).count() === 0);
  const held = () => revoke.evaluate((e) => e === document.activeElement);
  check(await held(), 'a row that stays loses the focus');

  // As when the list is sorted by their last use, which moves rows once in a minute.
  const fourth = await mint({ name: 'fourth', max_activations: 5 });
  let sorted = [];
  await context.route('**/till/api/keys?*', async (route) => {
    const response = await route.fetch(), json = await response.json();
    json.keys.sort((a, b) => sorted.indexOf(a.id) - sorted.indexOf(b.id));
    await route.fulfill({ response, json });
  });
  const order = (...keys) => {
    sorted = keys.map((k) => k.id);
    return until('the list is sorted', async () => (await page.locator('.keys tbody tr').evaluateAll((all) => all.map((r) => r.dataset.id))).join() === sorted.join());
  };
  await order(first, second, fourth);
  await revoke.focus();
  await revoke.evaluate((e) => e.addEventListener('focus', () => { globalThis.refocused = true; }));
  await order(second, fourth, first);
  check(await held() && !await page.evaluate(() => globalThis.refocused), 'a row loses the focus when one above it moves down');
  await order(fourth, first, second);
  check(await held(), 'a row that moves loses the focus');
  await context.unrouteAll({ behavior: 'wait' });
});

// lift looks at a lockdown as who may not lift it, and then as who may, in the same page.
export const lift = ({ api, browse, plan, signIn }) => browse({}, async ({ page, expecting }) => {
  expecting('status of 401'); // for the former session, which is over
  const button = page.getByRole('button', { name: 'Lift the lockdown' });
  await signIn(page, plan.reader.token);
  check((await api('POST', 'lockdown', { reason: 'drill' })).code === 200, 'there is no lockdown');
  await page.getByRole('alert').getByText('Locked down').waitFor();
  check(await button.count() === 0, 'a reader is offered to lift a lockdown');
  await page.goto(plan.link);
  await page.locator('.who .name').getByText('operator').waitFor();
  await button.waitFor();
});

// outdated gets other answers than the page can show: it says that it is out of date.
export const outdated = ({ api, browse, mint, open, signIn }) => browse({}, async ({ page, context, expecting }) => {
  const k = await mint({ name: 'nightly', max_activations: 5 }), notice = page.locator('#notice');
  expecting('Failed to load resource');
  const fails = async (url, status, visit = () => {}) => {
    await context.route(url, (route) => route.fulfill({ status, body: 'not from till' }));
    await visit();
    await notice.getByText(`This page is out of date. The server answered ${status}.`).waitFor();
    await context.unroute(url);
    await until('the notice goes', async () => await notice.innerText() === '');
  };
  await signIn(page);
  await page.getByRole('row', { name: /nightly/ }).waitFor();
  await fails('**/till/api/**', 502);
  await fails('**/till/api/**', 503); // of a proxy: till says more
  await fails('**/till/api/lockdown', 504); // only what every page looks at
  await fails('**/till/api/keys?*', 403); // only what this page shows
  await fails('**/usage', 404, () => open(page, 'keys/' + k.id, 'nightly'));
  await page.getByRole('button', { name: 'Revoke' }).waitFor();
  await page.getByRole('img', { name: /Requests per hour: 0 in all/ }).waitFor(); // which it did not claim before it knew
  await fails('**/usage', 404);

  // One banner comes while another stays as it is.
  check((await api('POST', 'lockdown', { reason: 'drill' })).code === 200, 'there is no lockdown');
  const lift = await page.getByRole('button', { name: 'Lift the lockdown' }).elementHandle();
  await lift.focus();
  await context.route('**/usage', (route) => route.fulfill({ status: 500, body: 'not from till' }));
  await notice.getByText('This page is out of date.').waitFor();
  check(await lift.evaluate((e) => e === document.activeElement), 'a banner that says the same is drawn anew');
});

// hanging asks for a list that never comes: the page says that it is out of date, until a
// list has come.
export const hanging = ({ browse, mint, signIn }) => browse({}, async ({ page, context }) => {
  await mint({ name: 'nightly', max_activations: 5 });
  const old = page.locator('#notice').getByText('This page is out of date. The server has not answered for 30 seconds.');
  let asked = 0;
  await signIn(page);
  await page.getByRole('row', { name: /nightly/ }).waitFor();
  await page.clock.install();
  await context.route('**/till/api/keys?*', () => { asked++; });
  await until('the list is read again', () => asked === 1);
  await page.clock.runFor(30000);
  await old.waitFor();
  await mint({ name: 'event', max_activations: 5 });
  await until('the list is read because of an event', () => asked > 1);
  await page.clock.runFor(10000); // the regular refresh finds that it is being read
  check(await old.count() === 1, 'it takes itself for fresh although no list has come');
  await context.unroute('**/till/api/keys?*');
  await page.getByRole('row', { name: /event/ }).waitFor();
  await until('the notice goes', async () => { await page.clock.runFor(1000); return await old.count() === 0; });
});

// long gives everything the longest names there may be, of one word. No page
// grows beyond the window, where nobody finds what stands there.
export const long = ({ api, browse, mint, open, signIn }) => browse({}, async ({ page }) => {
  const word = (c) => c.repeat(256);
  const k = await mint({ name: word('n'), owner: word('o'), purpose: word('p'), labels: { team: word('l') }, max_activations: 5, max_tokens: 123456, max_spend_usd: '1234.56', expires_in: '24h' });
  await api('POST', 'tokens', { name: word('t'), role: 'reader' });
  await signIn(page);
  for (const [where, what] of [['keys', 'Keys'], ['keys/' + k.id, word('n')], ['estate', 'Estate'], ['activity', 'Activity'], ['access', 'Access'], ['mint', 'Mint a key']]) {
    await open(page, where, what);
    if (where === 'keys') await page.getByRole('row', { name: /nnn/ }).waitFor();
    if (where === 'access') await page.getByRole('row', { name: /ttt/ }).waitFor();
    if (where === 'activity') await page.getByText(/nnn/).first().waitFor();
    for (const width of [360, 1000, 1265, 1280, 1440]) {
      await page.setViewportSize({ width, height: 800 });
      const far = await page.evaluate(() => {
        const shown = (e) => !e.closest('.hidden, .skip, .scroll, .chart, pre') && !(e.closest('thead') && getComputedStyle(e.closest('thead')).clipPath !== 'none');
        return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && shown(e)).map((e) => `${e.tagName} ${e.className} to ${Math.round(e.getBoundingClientRect().right)}`);
      });
      check(far.length === 0, `${what.slice(0, 9)} is wider than ${width}:`, far.slice(0, 5));
    }
  }
});

// lost loses the answer to a grant: whoever grants again grants once.
export const lost = ({ browse, mint, open, signIn }) => browse({}, async ({ page, context, expecting }) => {
  const k = await mint({ name: 'nightly', max_activations: 5 });
  expecting('Failed to load resource');
  await signIn(page);
  await open(page, 'keys/' + k.id, 'nightly');
  await context.route('**/grant', async (route) => { await route.fetch(); await route.abort(); }, { times: 1 });
  await page.getByRole('button', { name: 'Grant more' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('More activations').fill('4');
  await dialog.getByRole('button', { name: 'Grant' }).click();
  await dialog.getByText('There is no answer from the server').waitFor();
  await dialog.getByRole('button', { name: 'Grant' }).click();
  await page.getByText('9 of 9 left').waitFor();
});

// untold locks down at a server that cannot tell the others, and later can: the page says
// how far the lockdown reaches.
export const untold = ({ browse, said, signIn }) => browse({}, async ({ page, context }) => {
  let now = { locked_down: false };
  const set = (more) => { now = { locked_down: true, since: '2026-11-30T12:00:00Z', by: 'ops', ...more }; };
  await context.route('**/till/api/lockdown', async (route) => {
    if (route.request().method() === 'POST') set({ durable: false, pending: ['node-b'] });
    await route.fulfill({ json: now });
  });
  await signIn(page);
  await page.getByRole('button', { name: 'Lock down' }).click();
  const dialog = page.getByRole('dialog');
  check(!(await dialog.innerText()).includes('across a restart, too'), 'it promises what is not known yet');
  await dialog.getByRole('button', { name: 'Lock down' }).click();
  await said(page, 'NOT known to node-b');
  const banner = page.getByRole('alert');
  await banner.getByText('NOT known to node-b, where keys may still work').waitFor();
  check(!(await page.locator('body').innerText()).includes('very key is refused'), 'it says that every key is refused');
  set({ durable: false });
  await banner.getByText('a restart of it would end the lockdown').waitFor();
  set({ durable: true });
  await banner.getByText('Every key is refused.').waitFor();
  check(!/NOT known|a restart/.test(await banner.innerText()), 'it still says otherwise');
});

// label filters by a label: what is no label picks no keys, and ends none.
export const label = ({ browse, mint, open, signIn }) => browse({}, async ({ page }) => {
  await mint({ name: 'one', max_activations: 5, labels: { query: 'a=b' } });
  await mint({ name: 'two', max_activations: 5, labels: { query: 'a' } });
  await signIn(page);
  await open(page, 'keys?status=active&label=query%3Da%3Db', 'Keys');
  await page.getByRole('button', { name: 'End all that match…' }).waitFor(); // the former list, of all keys, has none
  await page.getByRole('row', { name: /one/ }).waitFor();
  check(await page.getByRole('row', { name: /two/ }).count() === 0, 'it shows another value of the label');
  await page.getByLabel('Label').fill('query');
  await page.getByLabel('Label').press('Enter');
  await page.locator('main').getByRole('alert').getByText('A label is written name=value.').waitFor();
  check(await page.getByRole('button', { name: 'End all that match…' }).count() === 0, 'all that match nothing in particular can be ended');
});

// tabs signs in as somebody else in another tab: every tab says who acts in it.
export const tabs = ({ api, browse, hold, open, plan, signIn }) => browse({}, async ({ page, context, expecting }) => {
  expecting('status of 401'); // for the former session, which is over
  await signIn(page);
  check(await page.locator('.who .name').innerText() === 'ops', 'it is not signed in as ops');
  await open(page, 'mint', 'Mint a key');
  await page.getByLabel('Activations').fill('3');
  const answer = await hold(page, '**/till/api/keys');
  await page.getByRole('button', { name: 'Mint key' }).click();
  await answer.asked();
  let free;
  const freed = new Promise((resolve) => { free = resolve; });
  await page.route('**/till/session', async (route) => { await freed; await route.continue(); });
  const heard = page.waitForRequest('**/till/session');
  const other = await context.newPage();
  await other.goto(plan.link);
  await other.locator('.who .name').getByText('operator').waitFor();
  await heard;
  await answer.come();
  check(await page.locator('.secret').count() === 0, 'a string is shown to who has signed in in another tab');
  free();
  await page.locator('.who .name').getByText('operator').waitFor();
  for (const tab of [page, other]) {
    await tab.reload();
    await tab.locator('.who .name').getByText('operator').waitFor();
  }

  // A string that is shown goes before the page knows who has signed in, and it says so.
  await page.getByLabel('Activations').fill('3');
  await page.getByRole('button', { name: 'Mint key' }).click();
  await page.locator('.secret').waitFor();
  let tell;
  const told = new Promise((resolve) => { tell = resolve; });
  await page.route('**/till/session', async (route) => { await told; await route.continue(); });
  const asked = page.waitForRequest('**/till/session');
  await other.goto((await api('POST', 'console/link')).url);
  await other.locator('.who .name').getByText('ops').waitFor();
  await asked;
  check(await page.locator('.secret').count() === 0, 'a string is shown to who has signed in in another tab');
  tell();
  await page.getByRole('heading', { name: 'A string that was shown is gone' }).waitFor();
  check(await other.getByText('A string that was shown is gone').count() === 0, 'a tab that showed no string says that one is gone');
});

// late gives the page answers that it asked for before others after those: what was drawn
// stays as it is.
export const late = ({ browse, hold, mint, open, plan, signIn }) => browse({}, async ({ page, context, expecting }) => {
  const k = await mint({ name: 'nightly', max_activations: 5 }), dialog = page.getByRole('dialog');
  await mint({ name: 'other', max_activations: 5 });
  const confirm = async (name) => { await page.getByRole('button', { name }).click(); await dialog.getByRole('button', { name }).click(); };
  const again = () => page.evaluate(() => document.dispatchEvent(new Event('visibilitychange'))); // all is read again at once
  await signIn(page);
  await page.getByRole('row', { name: /other/ }).waitFor();

  // A list that fails after the filter has changed.
  expecting('status of 500');
  let fail, asked = 0;
  const failing = new Promise((resolve) => { fail = resolve; });
  await context.route('**/till/api/keys?*q=nothing*', async (route) => { asked++; await failing; await route.fulfill({ status: 500, json: {} }); });
  const failed = page.waitForResponse('**/till/api/keys?*q=nothing*');
  await page.getByLabel('Search').fill('nothing');
  await until('the list is read', () => asked);
  await page.getByLabel('Search').fill('night');
  await until('the list is of the new filter', async () => await page.getByRole('row', { name: /other/ }).count() === 0);
  fail();
  await (await failed).finished();
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve)));
  check(await page.locator('main').getByRole('alert').count() === 0, 'the failure of a former filter is shown');

  // The key's state, and its trail.
  await open(page, 'keys/' + k.id, 'nightly');
  let old = await hold(page, '**/till/api/keys/' + k.id);
  await old.asked();
  await page.getByRole('button', { name: 'Suspend' }).click();
  await page.getByRole('button', { name: 'Resume' }).waitFor();
  await old.come();
  check(await page.getByRole('button', { name: 'Resume' }).count() === 1, 'a former state of the key is shown');
  const trail = page.locator('section', { has: page.getByRole('heading', { name: 'What was done to it' }) }), revoked = trail.getByText('key revoke', { exact: true });
  // A string that is shown once.
  old = await hold(page, '**/till/api/upstreams/mock/clients');
  await confirm('Rotate');
  await old.asked();
  const first = page.locator('.secret code');
  await first.waitFor();
  const before = await first.innerText();
  await confirm('Rotate');
  await until('the newer string is shown', async () => await first.innerText() !== before);
  await page.getByText('Put it to use').waitFor();
  const newer = await first.innerText();
  await old.come();
  check(await first.innerText() === newer, 'a string that was replaced is shown');
  old = await hold(page, '**/till/api/audit?*');
  await page.getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  await old.asked();
  await confirm('Revoke');
  await revoked.waitFor();
  await old.come();
  check(await revoked.count() === 1, 'the trail lacks what was done last');

  old = await hold(page, '**/till/api/tokens?*');
  const roles = await hold(page, '**/till/api/roles');
  await page.goto(plan.base + '/till/#/access');
  await old.asked();
  await roles.asked();
  await page.getByRole('button', { name: 'Create a token' }).click();
  await dialog.getByLabel('Whose it is').fill('maria');
  await roles.come(); // the dialog has asked for a role before any was known
  await dialog.getByLabel('Role').selectOption('reader');
  await dialog.getByRole('button', { name: 'Create it' }).click();
  await page.getByRole('row', { name: /maria/ }).waitFor();
  await old.come();
  check(await page.getByRole('row', { name: /maria/ }).count() === 1, 'the list lacks the newest token');

  await open(page, 'activity', 'Activity');
  old = await hold(page, '**/till/api/audit/verify', () => ({ ok: false, seq: 1, why: 'former' }));
  await page.getByRole('button', { name: 'Verify the chain' }).click();
  await old.asked();
  await page.getByRole('button', { name: 'Verify the chain' }).click();
  await page.getByText('The chain is complete').waitFor();
  await old.come();
  check(await page.getByText('The chain is broken').count() === 0, 'a former look at the chain is shown');

  await open(page, 'estate', 'Estate');
  await page.getByRole('heading', { name: 'Prices' }).waitFor();
  const look = await hold(page, '**/till/api/lockdown'); // without which no other part of the page asks for the state
  old = await hold(page, '**/till/api/stats', (stats) => ({ ...stats, used_activations: 777 }));
  await again();
  await old.asked();
  const stats = page.waitForResponse('**/till/api/stats');
  await again();
  await (await stats).finished();
  await old.come();
  check(await page.getByText('777 requests').count() === 0, 'a former state of the server is shown');
  await look.asked();
  await look.come();

  // A page that was left before it was drawn.
  old = await hold(page, '**/till/api/roles');
  const upstreams = page.waitForResponse('**/till/api/upstreams');
  await page.goto(plan.base + '/till/#/mint');
  await old.asked();
  await (await upstreams).finished();
  await page.getByRole('link', { name: 'Keys', exact: true }).click();
  await page.getByRole('row', { name: /nightly/ }).waitFor();
  await old.come();
  check(await page.getByRole('heading', { name: 'Keys', exact: true }).count() === 1, 'a page that was left is shown');

  // A lockdown, and the look at it that was under way when somebody signed out.
  await open(page, 'activity', 'Activity');
  old = await hold(page, '**/till/api/lockdown');
  await old.asked();
  await confirm('Lock down');
  const banner = page.getByRole('alert').getByText('Locked down');
  await banner.waitFor();
  const looked = page.waitForResponse('**/till/api/stats');
  await old.come();
  await (await looked).finished();
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve)));
  check(await banner.count() === 1, 'a lockdown is not shown');
  old = await hold(page, '**/till/api/stats');
  await old.asked();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByText('You are signed out.').waitFor();
  await old.come();
  await page.getByLabel('Admin token').fill(plan.token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await banner.waitFor();

  // Who acts: somebody else has signed in in another tab meanwhile.
  old = await hold(page, '**/till/session');
  await page.reload();
  await old.asked();
  const other = await context.newPage();
  await other.goto(plan.link);
  await page.locator('.who .name').getByText('operator').waitFor();
  await old.come();
  check(await page.locator('.who .name').innerText() === 'operator', 'it says that somebody else acts');
});
