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
  let calls = 0;
  await context.route('**/till/api/keys?*label.team*', async (route) => {
    calls++;
    const far = new URL(route.request().url()).searchParams.get('cursor');
    await route.fulfill({ json: far === 'p10' ? { keys: [await api('GET', 'keys/' + last.id)] } : { keys: [], partial: true, next: 'p' + ((far ? Number(far.slice(1)) : 0) + 1) } });
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
export const tabs = ({ browse, plan, signIn }) => browse({}, async ({ page, context, expecting }) => {
  expecting('status of 401'); // for the former session, which is over
  await signIn(page);
  check(await page.locator('.who .name').innerText() === 'ops', 'it is not signed in as ops');
  const other = await context.newPage();
  await other.goto(plan.link);
  await other.locator('.who .name').getByText('operator').waitFor();
  await page.locator('.who .name').getByText('operator').waitFor();
  for (const tab of [page, other]) {
    await tab.reload();
    await tab.locator('.who .name').getByText('operator').waitFor();
  }
});
