// The flows of the console, each as a person goes through it. The tests in
// e2e/browser_test.go start the servers, and ask for a flow by a line of JSON, which is
// answered by another when the flow has ended:
//
//	{"id": 7, "flow": "signin", "plan": {"base": …}}
//	{"id": 7, "value": …} or {"id": 7, "error": "…"}
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import * as once from './once.mjs';
import * as trouble from './trouble.mjs';
import { check, launch, until, visit } from './browser.mjs';

const flows = { ...once, ...trouble };

flows.signin = ({ api, browse, plan, signIn }) => browse({}, async ({ page, context, expecting }) => {
  expecting('status of 401');
  await page.goto(plan.base + '/');
  check(page.url() === plan.base + '/till/', 'the root leads to', page.url());
  await page.getByLabel('Admin token').fill('till_admin_0000000000000000000000000000');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').getByText('not known here').waitFor();
  await signIn(page);
  const [cookie, ...others] = await context.cookies();
  check(cookie.httpOnly && cookie.sameSite === 'Strict' && cookie.path === '/' && others.length === 0, 'the cookie', cookie, others);
  check(cookie.name === (plan.base.startsWith('https') ? '__Host-till' : 'till') && cookie.secure === plan.base.startsWith('https'), 'the cookie', cookie);
  const kept = await page.evaluate(() => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie]));
  check(!kept.includes('till_admin_') && !kept.includes(cookie.value), 'the page keeps', kept);
  const other = await context.newPage();
  await other.goto(plan.base + '/till/');
  await other.getByRole('heading', { name: 'Keys', exact: true }).waitFor(); // one session for all tabs
  await other.close();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByText('You are signed out.').waitFor();
  await page.reload();
  await page.getByLabel('Admin token').waitFor();

  // A token that is revoked takes its sessions with it.
  await signIn(page, plan.second.token);
  check((await api('POST', `tokens/${plan.second.id}/revoke`)).code === 200, 'the second token is not revoked');
  await page.getByText('Your session is over').waitFor();
  await page.getByLabel('Admin token').fill(plan.second.token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').getByText('revoked').waitFor();
});

flows.link = ({ browse, open, plan, said }) => browse({}, async ({ page, context, expecting }) => {
  expecting('status of 401');
  await page.goto(plan.link);
  await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
  check(!page.url().includes('signin'), 'the secret stays in the address', page.url());
  await page.goBack().catch(() => {});
  check(!page.url().includes('signin'), 'the secret stays in the history', page.url());
  // A link that was used, or that somebody made up, changes nothing for who is signed in.
  const session = (await context.cookies())[0].value;
  for (const link of [plan.link, plan.base + '/till/#signin=invented']) {
    const stale = await context.newPage();
    await stale.goto(link);
    await said(stale, 'no longer works');
    await stale.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
    check(!stale.url().includes('signin'), 'a used secret stays in the address', stale.url());
    await stale.close();
    await open(page, 'access', 'Access');
    await open(page, 'keys', 'Keys');
  }
  await page.goto(plan.base + '/till/#signin=invented'); // in the page that is open
  await said(page, 'no longer works');
  await page.reload();
  await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
  check((await context.cookies())[0].value === session, 'it is another session');
  await context.clearCookies();
  const again = await context.newPage();
  await again.goto(plan.link);
  await again.getByText('no longer works').waitFor();
  check(!again.url().includes('signin'), 'a used secret stays in the address', again.url());
});

flows.mint = ({ browse, chat, plan, said, signIn }) => browse({ permissions: ['clipboard-read', 'clipboard-write'] }, async ({ page, expecting }) => {
  expecting('status of 403'); // above a ceiling
  await signIn(page, plan.researcher.token);
  await page.getByRole('heading', { name: 'No keys yet' }).waitFor();
  await page.getByRole('button', { name: 'Mint key' }).click();
  await page.getByRole('heading', { name: 'Mint a key' }).waitFor();
  await page.getByText('Your role allows up to 500;').waitFor();
  await page.getByText('Your role allows up to $5.00;').waitFor();
  await page.getByLabel('Name').fill('nightly');
  await page.getByLabel('Upstream').selectOption('mock');
  await page.getByLabel('Activations').fill('501');
  await page.getByRole('button', { name: 'Mint key' }).click();
  await page.getByRole('alert').getByText('max_activations').waitFor();
  await page.getByLabel('Activations').fill('20');
  await page.getByLabel('Spend (USD)').fill('1.25');
  await page.getByLabel('Expires in').fill('8h');
  await page.getByRole('button', { name: 'Mint key' }).click();
  await page.getByRole('heading', { name: 'nightly is minted' }).waitFor();
  const key = await page.locator('.secret code').innerText();
  check(/^till_sk_[0-9A-Za-z]{28}$/.test(key), 'the key is', key);
  await page.getByRole('button', { name: 'Copy the key' }).click();
  await said(page, 'The key copied.');
  check(await page.evaluate(() => navigator.clipboard.readText()) === key, 'the clipboard has another text');
  const lines = page.locator('.snippet pre').first();
  check((await lines.innerText()).includes(`export OPENAI_API_KEY=${key}`) && (await lines.innerText()).includes('export OPENAI_BASE_URL='), 'the lines are', await lines.innerText());
  await page.getByText('Codex', { exact: true }).click();
  await page.getByText('wire_api = "responses"').waitFor();
  check(await chat(key) === 200, 'the key does not work');
  // A secret is shown once.
  await page.getByRole('button', { name: 'Open this key' }).click();
  await page.getByRole('heading', { name: 'nightly', exact: true }).waitFor();
  await page.getByText('19 of 20 left').waitFor();
  check(!(await page.content()).includes(key), 'the key is shown a second time');
  await page.goBack();
  await page.getByRole('heading', { name: 'Mint a key' }).waitFor();
  check(!(await page.content()).includes(key), 'the key is there when one goes back');
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state]));
  check(!kept.includes(key), 'the page keeps the key', kept);
});

// sealed mints a key that carries the real one, and rotates it.
flows.sealed = ({ browse, chat, plan, signIn }) => browse({}, async ({ page }) => {
  await signIn(page);
  await page.getByRole('button', { name: 'Mint key' }).click();
  await page.getByLabel('Name').fill('sealed');
  await page.getByLabel('Activations').fill('5');
  await page.getByText('Notes, custody and delegation').click();
  await page.getByLabel('Real key to seal').fill(plan.real);
  await page.getByRole('button', { name: 'Mint key' }).click();
  await page.getByRole('heading', { name: 'sealed is minted' }).waitFor();
  const key = await page.locator('.secret code').innerText();
  check(/^till_sk_[0-9A-Za-z]{28}[.]/.test(key) && await chat(key) === 200, 'the sealed key does not work', key.slice(0, 40));
  await page.getByRole('button', { name: 'Open this key' }).click();
  await page.getByText('sealed inside the key').waitFor();
  await page.getByRole('button', { name: 'Rotate' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Real key to seal').fill(plan.real);
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  const fresh = await page.locator('.secret code').innerText();
  check(fresh !== key && await chat(fresh) === 200 && await chat(key) === 200, 'the rotation, with its grace of an hour');
  check(!(await page.content()).includes(plan.real), 'the page shows the real key');
});

flows.keys = ({ browse, chat, mint, said, signIn }) => browse({}, async ({ page }) => {
  for (let i = 0; i < 60; i++) await mint({ name: `batch-${String(i).padStart(2, '0')}`, max_activations: 5, owner: 'batch' });
  const dialog = page.getByRole('dialog');
  const live = await mint({ name: 'watched', max_activations: 10, owner: 'people', expires_in: '24h' });
  await signIn(page);
  const row = page.getByRole('row', { name: /watched/ });
  await row.getByText('10 of 10 left').waitFor();
  for (let i = 0; i < 4; i++) check(await chat(live.scoped_key) === 200, 'chat');
  await row.getByText('6 of 10 left').waitFor(); // by itself
  check(await page.getByRole('row').count() === 51, 'rows of a page', await page.getByRole('row').count());
  const next = page.getByRole('button', { name: 'Next' });
  await next.focus();
  check(await chat(live.scoped_key) === 200, 'chat');
  await row.getByText('5 of 10 left').waitFor(); // the list was drawn anew
  check(await next.evaluate((e) => e === document.activeElement), 'a button loses the focus when the list is drawn');
  await next.click();
  await page.getByText('Page 2').waitFor();
  await until('the last page is short', async () => await page.getByRole('row').count() === 12);
  await page.goBack();
  await row.waitFor();
  await page.getByLabel('Sort').selectOption('created');
  await page.getByRole('row', { name: /batch-00/ }).waitFor();
  await page.getByLabel('Search').fill('WATCH');
  await until('one key matches', async () => await page.getByRole('row').count() === 2);
  check(await page.getByLabel('Search').evaluate((e) => e === document.activeElement), 'the search lost the focus');
  await page.getByLabel('Search').fill('nothing-like-it');
  await page.getByRole('heading', { name: 'No key matches' }).waitFor();
  await page.getByLabel('Search').fill('');
  await page.getByText('More filters').click();
  await page.getByLabel('Owner').fill('batch');
  await page.getByLabel('Owner').press('Enter');
  await until('the owner is filtered by', async () => await page.getByRole('row', { name: /watched/ }).count() === 0 && await page.getByRole('row').count() === 51);
  await page.reload(); // the address holds the filter
  await page.getByRole('row', { name: /batch/ }).first().waitFor();

  await page.getByRole('button', { name: 'Lock down' }).click();
  await dialog.getByLabel('Reason').fill('drill');
  await dialog.getByRole('button', { name: 'Lock down' }).click();
  await page.getByRole('alert').getByText('Locked down').waitFor();
  const titled = () => until('the focus is where the page begins', () => page.evaluate(() => document.activeElement.innerText === 'Keys'));
  await titled(); // the button that had it is gone
  check(await chat(live.scoped_key) === 403, 'a key works in a lockdown');
  await page.getByRole('button', { name: 'Lift the lockdown' }).click();
  await dialog.getByRole('button', { name: 'Lift the lockdown' }).click();
  await said(page, 'The lockdown is lifted.');
  await titled();
  check(await chat(live.scoped_key) === 200, 'no key works after the lockdown');
});

// bulk ends what a filter matches, after the right count was typed.
flows.bulk = ({ api, browse, chat, mint, open, said, signIn }) => browse({}, async ({ page }) => {
  for (let i = 0; i < 60; i++) await mint({ name: `batch-${i}`, max_activations: 5, owner: 'batch' });
  const other = await mint({ name: 'other', max_activations: 5, owner: 'people' });
  await signIn(page);
  await open(page, 'keys?owner=batch', 'Keys');
  await page.getByRole('row', { name: /batch/ }).first().waitFor();
  await page.getByRole('button', { name: 'End all that match' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('heading', { name: 'End 60 keys?' }).waitFor();
  const end = dialog.getByRole('button', { name: 'End them' });
  check(await end.isDisabled(), 'it asks for no count');
  await dialog.getByLabel('How many').fill('59');
  check(await end.isDisabled(), 'a wrong count is taken');
  await dialog.getByLabel('How many').fill('60');
  const late = await mint({ name: 'late', max_activations: 5, owner: 'batch' });
  await end.click();
  await said(page, '60 keys revoked');
  check((await api('GET', 'keys?status=revoked&limit=100')).keys.length === 60, 'they are not revoked');
  check(await chat(other.scoped_key) === 200, 'another key was revoked');
  check(await chat(late.scoped_key) === 200, 'a key that was minted after the count was revoked');
  // Those that were chosen by hand.
  await open(page, 'keys', 'Keys');
  await page.getByLabel('Choose other').check();
  await page.getByRole('button', { name: 'End 1 chosen key' }).click();
  await dialog.getByRole('button', { name: 'End them' }).click();
  await said(page, '1 key revoked.');
  check(await chat(other.scoped_key) === 403, 'a chosen key works');
});

flows.key = ({ api, browse, chat, mint, open, signIn }) => browse({}, async ({ page }) => {
  const k = await mint({ name: 'triage', max_activations: 6, expires_in: '24h', methods: ['POST'] });
  for (let i = 0; i < 6; i++) check(await chat(k.scoped_key) === 200, 'chat');
  for (let i = 0; i < 3; i++) check(await chat(k.scoped_key) === 402, 'it is not exhausted');
  await signIn(page);
  await page.getByRole('link', { name: 'triage' }).click();
  await page.getByRole('heading', { name: 'triage', exact: true }).waitFor();
  await page.getByText('0 of 6 left').waitFor();
  await page.getByText('exhausted').first().waitFor();
  await page.getByRole('img', { name: /Requests per hour: 6 in all/ }).waitFor();
  await page.getByRole('button', { name: '30 days' }).click();
  await page.getByRole('img', { name: /Requests per day: 6 in all/ }).waitFor();
  await page.getByRole('button', { name: 'Refused' }).click();
  await page.getByRole('img', { name: /Refused per day: 3 in all/ }).waitFor();
  await page.getByText('activations used up').waitFor();
  const moment = page.locator('.facts time').first();
  check(/ago|just now/.test(await moment.innerText()) && /Z\)$/.test(await moment.getAttribute('title')), 'no exact time on hover');

  await page.getByRole('button', { name: 'Grant more' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('More activations').fill('4');
  await dialog.getByRole('button', { name: 'Grant' }).click();
  await page.getByText('4 of 10 left').waitFor();
  check(await chat(k.scoped_key) === 200, 'the grant did nothing');

  await page.getByRole('button', { name: 'Suspend' }).click();
  await page.getByRole('button', { name: 'Resume' }).waitFor();
  check(await chat(k.scoped_key) === 403, 'it is not suspended');
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.getByRole('button', { name: 'Suspend' }).waitFor();

  await page.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByLabel('The old string still works for').fill('0s');
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  const fresh = await page.locator('.secret code').innerText();
  check(fresh !== k.scoped_key && await chat(fresh) === 200 && await chat(k.scoped_key) === 403, 'the rotation');

  await page.getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  check(await chat(fresh) === 200, 'Cancel revoked it');
  await page.getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByLabel('Reason').fill('the work is done');
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await page.getByText('Ended for ever.').waitFor();
  check(await chat(fresh) === 403, 'a revoked key works');
  check(await page.locator('.secret').count() === 0, 'the string of a revoked key stays');
  await page.getByText(/the work is done/).first().waitFor();
  const trail = page.locator('section', { has: page.getByRole('heading', { name: 'What was done to it' }) });
  for (const act of ['key create', 'key grant', 'key suspend', 'key resume', 'key rotate', 'key revoke']) await trail.getByText(act, { exact: true }).waitFor();
  check(!(await page.content()).includes(k.scoped_key), 'the audit trail shows a secret');

  // Its limits are changed elsewhere: one for another, for none, and for one again.
  const c = await mint({ name: 'changing', max_activations: 6 });
  const patch = async (fields) => { const a = await api('PATCH', 'keys/' + c.id, fields); check(a.code === 200, 'the change', a); };
  await open(page, 'keys/' + c.id, 'changing');
  const limits = page.locator('main > .cards > .card'), only = async (title, text) => {
    await limits.getByRole('heading', { name: title, exact: true }).waitFor();
    await limits.getByText(text).waitFor();
    check(await limits.count() === 1, 'the limits are', await limits.allInnerTexts());
  };
  await only('Activations', '6 of 6 left');
  await patch({ max_activations: null, max_tokens: 5000 });
  await only('Tokens', '5,000 of 5,000 left');
  await patch({ max_tokens: null, unlimited: true });
  await only('No limit', 'Nothing ends this key by itself.');
  await patch({ max_activations: 9 });
  await only('Activations', '9 of 9 left');
  // What somebody has the focus in is not redrawn until they are done with it.
  await page.getByRole('button', { name: 'Copy the id' }).focus();
  await patch({ max_activations: 10, purpose: 'told late' });
  await only('Activations', '10 of 10 left');
  await page.evaluate(() => document.activeElement.blur());
  await page.locator('.facts').getByText('told late').waitFor();
});

// children mints a key below another as its holder does, and finds it.
flows.children = ({ browse, mint, plan, signIn }) => browse({}, async ({ page }) => {
  const k = await mint({ name: 'parent', max_activations: 20, delegate: true });
  const made = await fetch(plan.keys + '/till/self/keys', {
    method: 'POST', headers: { Authorization: 'Bearer ' + k.scoped_key, 'Content-Type': 'application/json' }, body: JSON.stringify({ name: 'child', max_activations: 5 }),
  });
  check(made.status === 201, 'the child is not minted', await made.text());
  await signIn(page);
  await page.getByRole('link', { name: 'parent' }).click();
  await page.getByText('its holder may mint keys below it').waitFor();
  await page.getByRole('link', { name: 'child' }).click();
  await page.getByRole('heading', { name: 'child', exact: true }).waitFor();
  await page.getByText('5 of 5 left').waitFor();
  await page.getByRole('link', { name: k.id }).click(); // its parent
  await page.getByRole('heading', { name: 'parent', exact: true }).waitFor();
  await page.getByText('1 used, 5 given to children').waitFor();
  await page.getByText('14 of 20 left').waitFor(); // five for the child, one for making it
});

flows.estate = ({ browse, chat, mint, open, plan, signIn }) => browse({}, async ({ page }) => {
  const k = await mint({ name: 'spender', max_activations: 100, owner: 'team-red', models: ['gpt-5-mini'] });
  for (let i = 0; i < 7; i++) check(await chat(k.scoped_key) === 200, 'chat');
  await signIn(page);
  await open(page, 'estate', 'Estate');
  await page.getByText('In order', { exact: true }).waitFor();
  await page.getByText('team-red').waitFor();
  await page.getByText(/7 requests/).first().waitFor();
  await page.getByRole('heading', { name: 'Prices' }).waitFor();

  // Names are only names: a holder chooses the models of children, and others the owners.
  const names = ['constructor', '__proto__', 'toString', 'hasOwnProperty'];
  const parent = await mint({ name: 'parent', max_activations: 100, delegate: true });
  for (const name of names) {
    const made = await fetch(plan.keys + '/till/self/keys', {
      method: 'POST', headers: { Authorization: 'Bearer ' + parent.scoped_key, 'Content-Type': 'application/json' },
      body: JSON.stringify({ name, models: [name], max_activations: 5 }),
    });
    check(made.status === 201, 'the child is not minted', await made.text());
    await mint({ name, owner: name, models: ['gpt-5-mini'], max_activations: 5 }).then((k) => chat(k.scoped_key));
  }
  await page.reload();
  for (const name of names) await page.locator('main').getByText(name, { exact: true }).first().waitFor();
  await page.getByRole('link', { name: 'Keys', exact: true }).click();
  await page.getByRole('row', { name: /__proto__/ }).first().waitFor();
  for (const name of names) await page.getByRole('row', { name: new RegExp(name) }).first().waitFor();
});

// stale shows what should be fixed, and the command that does it.
flows.stale = ({ api, browse, open, said, signIn }) => browse({}, async ({ page, expecting }) => {
  await signIn(page);
  await open(page, 'estate', 'Estate');
  await page.getByText('Never used (1)').waitFor();
  await page.getByRole('link', { name: 'release-notes' }).first().waitFor();
  await page.getByText('Granted far more than it uses (2)').waitFor();
  await page.getByText(/^caddy till /).first().waitFor();
  const entry = page.getByRole('listitem').filter({ hasText: 'docs-writer' });
  const { keys: [before] } = await api('GET', 'keys?q=docs-writer');
  await api('PATCH', 'keys/' + before.id, { purpose: 'changed by somebody else' });
  expecting('status of 412');
  await entry.getByRole('button', { name: 'Narrow it' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Narrow it' }).click();
  await page.getByRole('dialog').getByText('The key has changed since it was read').waitFor();
  await page.reload();
  // How much it is depends on how many busy hours there were until the page was read.
  const proposed = (await entry.innerText()).match(/--max-spend-usd (\S+)/)[1];
  await entry.getByRole('button', { name: 'Narrow it' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Narrow it' }).click();
  await said(page, 'Fixed.');
  await until('what was fixed is gone', async () => await entry.count() === 0);
  const { keys } = await api('GET', 'keys?q=docs-writer');
  check(Number(keys[0].max_spend_usd) === Number(proposed) && Number(proposed) < 20 && keys[0].max_activations === 1500, 'it is not narrowed as proposed', proposed, keys[0]);
});

// closed finds a store that cannot be trusted: the page says so and how it is
// repaired, and the lockdown works all the same.
flows.closed = ({ browse, plan }) => browse({}, async ({ page, expecting }) => {
  expecting('status of 503');
  await page.goto(plan.link);
  await page.getByRole('alert').getByText('The store is closed').waitFor();
  await page.getByText('caddy till repair --forfeit').first().waitFor();
  await page.getByRole('button', { name: 'Try again' }).waitFor();
  await page.getByRole('button', { name: 'Lock down' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Lock down' }).click();
  await page.getByRole('alert').getByText('Locked down').waitFor();
});

// events shows what happens as it happens.
flows.events = ({ api, browse, mint, open, plan, signIn }) => browse({}, async ({ page }) => {
  await signIn(page);
  await open(page, 'activity', 'Activity');
  await page.getByText('Nothing yet.').waitFor();
  const made = await mint({ name: 'heard-of', max_activations: 5 });
  const live = page.locator('section', { has: page.getByRole('heading', { name: 'Happening now' }) });
  await live.getByText('heard-of').first().waitFor();
  await api('POST', `keys/${made.id}/revoke`, { reason: 'heard' });
  await live.getByText('was revoked').waitFor();
  await live.getByText(/by ops/).first().waitFor();
  // The list of keys hears of a new key before it looks again, every 3 s: the
  // page's clock goes 2 s on at most, and slower and slower, because it stands still
  // for what is still on its way.
  const list = await page.context().newPage();
  await list.clock.install();
  await list.clock.pauseAt(Date.now() + 3600000);
  const listens = list.waitForResponse(plan.base + '/till/api/events');
  await list.goto(plan.base + '/till/');
  await list.getByRole('row', { name: /heard-of/ }).waitFor();
  await listens;
  await mint({ name: 'at-once', max_activations: 5 });
  let passed = 0, pause = 25, next = 0;
  await until('the new key is shown', async () => {
    if (await list.getByRole('row', { name: /at-once/ }).count() === 1) return true;
    if (passed < 2000 && Date.now() >= next) {
      passed += 50;
      await list.clock.runFor(50);
      next = Date.now() + (pause *= 1.2);
    }
    return false;
  });
});

flows.audit = ({ browse, mint, open, signIn }) => browse({}, async ({ page }) => {
  for (let i = 0; i < 55; i++) await mint({ name: `k-${i}`, max_activations: 5 });
  await signIn(page);
  await open(page, 'activity', 'Activity');
  await page.getByRole('button', { name: 'Verify the chain' }).click();
  await page.getByText('The chain is complete').waitFor();
  await until('a page of the audit log comes', async () => await page.getByText('key create', { exact: true }).count() === 50);
  await page.getByRole('button', { name: 'Show older entries' }).click();
  await until('older entries come', async () => await page.getByText('key create', { exact: true }).count() === 55);
  await page.getByLabel('Act').fill('token.create');
  await page.getByRole('button', { name: 'Filter' }).click();
  await until('the log is filtered', async () => await page.getByText('token create', { exact: true }).count() === 4 && await page.getByText('key create', { exact: true }).count() === 0);
});

// access makes and revokes an admin token.
flows.access = ({ api, browse, open, plan, said, signIn }) => browse({}, async ({ page }) => {
  await api('POST', 'tokens', { name: 'made-with-it', role: 'reader' }, plan.second.token);
  await signIn(page);
  await open(page, 'access', 'Access');
  await page.getByRole('heading', { name: 'researcher' }).waitFor();
  await page.getByRole('button', { name: 'Create a token' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Whose it is').fill('maria');
  await dialog.getByLabel('Role').selectOption('researcher');
  await dialog.getByRole('button', { name: 'Create it' }).click();
  const token = await page.locator('.secret code').innerText();
  check((await api('GET', 'keys', undefined, token)).code === 200, 'the new token opens nothing');
  const end = page.getByRole('row', { name: /maria/ }).getByRole('button', { name: 'Revoke' });
  for (const width of [360, 700]) { // what stands beside the page is not found at night
    await page.setViewportSize({ width, height: 740 });
    const box = await end.boundingBox();
    check(box.x >= 0 && box.x + box.width <= width, `Revoke stands beside a page of ${width}`, box);
  }
  await end.click();
  await dialog.getByText('tokens that were made with it').waitFor();
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await said(page, 'The token of maria is revoked.');
  await page.getByRole('row', { name: /maria/ }).getByText('revoked', { exact: true }).waitFor(); // the list is drawn anew
  check(await page.getByText('These tokens still work.').count() === 0, 'tokens are named that nobody made');
  await page.getByRole('row', { name: /second/ }).getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await page.getByText('These tokens still work.').waitFor();
  await page.getByRole('listitem').getByText('made-with-it').waitFor();
  check((await api('GET', 'keys', undefined, token)).code === 401, 'the revoked token opens something');
});

// reader has no permission but to read keys: what else there is says so.
flows.reader = ({ browse, mint, open, plan, signIn }) => browse({}, async ({ page, expecting }) => {
  expecting('status of 403');
  const k = await mint({ name: 'seen', max_activations: 5 });
  await signIn(page, plan.reader.token);
  await page.getByRole('row', { name: /seen/ }).waitFor();
  for (const name of ['Mint key', 'Lock down', 'Revoke', 'End all that match']) check(await page.getByRole('button', { name }).count() === 0, 'a reader is offered', name);
  await open(page, 'keys/' + k.id, 'seen');
  await page.getByText('You are not permitted to do this.').waitFor(); // the audit trail
  check(await page.getByRole('button', { name: 'Revoke' }).count() === 0, 'a reader is offered Revoke');
  await open(page, 'access', 'Access');
  await page.getByText('You are not permitted to do this.').waitFor();
});

// axe looks at every page, narrow and wide, light and dark.
flows.axe = async ({ api, browse, chat, mint, open, plan, signIn }) => {
  const source = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  const k = await mint({ name: 'seen-by-all', max_activations: 50, max_tokens: 100000, max_spend_usd: '2.00', expires_in: '7d', owner: 'platform', unknown_price: 'count_only' });
  for (let i = 0; i < 3; i++) await chat(k.scoped_key);
  await mint({ name: 'ended', max_activations: 5 }).then((e) => api('POST', `keys/${e.id}/revoke`));
  await browse({ bypassCSP: true, reducedMotion: 'reduce' }, async ({ page }) => {
    const look = async (what) => {
      await page.evaluate(source);
      for (const colorScheme of ['light', 'dark']) {
        for (const width of [360, 1440]) {
          await page.emulateMedia({ colorScheme });
          await page.setViewportSize({ width, height: 900 });
          const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
          const bad = violations.filter((v) => ['serious', 'critical'].includes(v.impact));
          check(bad.length === 0, `${what}, ${width} px, ${colorScheme}:`, bad.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200) + ' ' + n.failureSummary)]));
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          check(wide <= 0, `${what} is ${wide} px wider than the screen of ${width} px`);
        }
      }
    };
    await page.goto(plan.base + '/till/');
    await page.getByLabel('Admin token').waitFor();
    await look('sign-in');
    await signIn(page);
    await page.getByRole('row', { name: /seen-by-all/ }).waitFor();
    await look('keys');
    await open(page, 'keys?q=nothing', 'Keys');
    await page.getByRole('heading', { name: 'No key matches' }).waitFor();
    await look('no keys');
    await open(page, 'mint', 'Mint a key');
    for (const d of await page.locator('details > summary').all()) await d.click();
    await look('mint');
    await page.getByLabel('Name').fill('looked-at');
    await page.getByLabel('Activations').fill('1');
    await page.getByRole('button', { name: 'Mint key' }).click();
    await page.getByText('Put it to use').waitFor();
    for (const d of (await page.locator('details > summary').all()).slice(1)) await d.click();
    await look('minted');
    await open(page, 'keys/' + k.id, 'seen-by-all');
    await page.getByRole('img', { name: /Requests per hour: 3/ }).waitFor();
    await page.getByRole('button', { name: 'Rotate' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Rotate' }).click();
    await page.getByText('Put it to use').waitFor();
    await look('key');
    await page.getByRole('button', { name: 'Revoke' }).click();
    await page.getByRole('dialog').waitFor();
    await look('dialog');
    await page.keyboard.press('Escape');
    await open(page, 'estate', 'Estate');
    await page.getByText('By owner').waitFor();
    await look('estate');
    await open(page, 'activity', 'Activity');
    await page.getByText('key create').first().waitFor();
    await look('activity');
    await open(page, 'access', 'Access');
    await page.getByRole('heading', { name: 'researcher' }).waitFor();
    await look('access');
  });
};

// keyboard signs in, mints and revokes without a pointer.
flows.keyboard = ({ browse, plan }) => browse({}, async ({ page }) => {
  // to presses Tab until the focus is on what has that name.
  const to = async (name) => {
    for (let i = 0; i < 80; i++) {
      const at = await page.evaluate(() => { const e = document.activeElement; return (e.labels?.[0]?.innerText || e.getAttribute('aria-label') || e.innerText || '').trim(); });
      if (at === name) {
        const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
        check(ring !== 'none', `${name} does not show that it has the focus`);
        return;
      }
      await page.keyboard.press('Tab');
    }
    throw new Error(`Tab never reaches ${name}`);
  };
  await page.goto(plan.base + '/till/');
  await page.getByLabel('Admin token').waitFor();
  await page.keyboard.type(plan.token);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
  await to('Mint key');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Mint a key' }).waitFor();
  await to('Name');
  await page.keyboard.type('by-keyboard');
  await to('Activations');
  await page.keyboard.type('3');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'by-keyboard is minted' }).waitFor();
  await to('Open this key');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'by-keyboard', exact: true }).waitFor();
  await to('Revoke');
  await page.keyboard.press('Space');
  const dialog = page.getByRole('dialog');
  await dialog.waitFor();
  check(await page.evaluate(() => document.querySelector('dialog').contains(document.activeElement)), 'the focus is not in the dialog');
  await page.keyboard.press('Escape');
  await until('Escape closes the dialog', async () => await dialog.count() === 0);
  check(await page.evaluate(() => document.activeElement.innerText) === 'Revoke', 'the focus does not come back');
  await page.keyboard.press('Space');
  await to('Reason');
  await page.keyboard.type('done');
  await page.keyboard.press('Enter');
  await page.getByText('Ended for ever.').waitFor();
});

// paint measures how long the list of keys takes, from the navigation to the
// first frame with a whole page of rows in it.
flows.paint = ({ browse, plan, signIn }) => browse({}, async ({ page, context }) => {
  await context.addInitScript(() => {
    const seen = new MutationObserver(() => {
      if (document.querySelectorAll('tbody tr').length < 50) return;
      seen.disconnect();
      requestAnimationFrame(() => setTimeout(() => { globalThis.painted = performance.now(); }));
    });
    seen.observe(document, { childList: true, subtree: true });
  });
  await signIn(page);
  const runs = [];
  for (let i = 0; i < 7; i++) {
    await page.goto('about:blank');
    await page.goto(plan.base + '/till/');
    runs.push(Math.round(await until('the rows are painted', () => page.evaluate(() => globalThis.painted))));
  }
  return runs;
});

// screens takes the pictures of the documentation.
flows.screens = async ({ api, browse, open, plan }) => {
  const picture = async (name, options, shoot) => {
    await browse({ viewport: { width: 1280, height: 920 }, deviceScaleFactor: 1.5, reducedMotion: 'reduce', ...options }, async ({ page }) => {
      await page.goto((await api('POST', 'console/link')).url);
      await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
      await shoot(page);
      await page.mouse.move(0, 0);
      await page.screenshot({ path: `${plan.dir}/${name}.png` });
    });
  };
  await picture('console-keys', {}, async (page) => { await page.getByRole('row', { name: /nightly-review/ }).waitFor(); });
  await picture('console-key', { colorScheme: 'dark' }, async (page) => {
    await open(page, 'keys/' + plan.key, 'support-triage');
    await page.getByRole('button', { name: '30 days' }).click();
    await page.getByRole('img', { name: /Requests per day/ }).waitFor();
    await page.getByText('key create').waitFor();
    await until('nothing is being read', async () => await page.getByText('Reading…').count() === 0);
    await page.evaluate(() => document.activeElement.blur());
  });
  await picture('console-minted', { viewport: { width: 390, height: 760 }, deviceScaleFactor: 2 }, async (page) => {
    await page.getByRole('button', { name: 'Mint key' }).click();
    await page.getByLabel('Name').fill('changelog-bot');
    await page.getByLabel('Upstream').selectOption('anthropic');
    await page.getByLabel('Activations').fill('50');
    await page.getByLabel('Spend (USD)').fill('0.50');
    await page.getByLabel('Expires in').fill('8h');
    await page.getByRole('button', { name: 'Mint key' }).click();
    await page.getByRole('heading', { name: 'changelog-bot is minted' }).waitFor();
    await page.locator('.snippet').first().waitFor();
  });
};

async function go({ id, flow, plan }) {
  let end;
  try {
    check(flows[flow], 'there is no flow', flow);
    end = { value: await flows[flow](visit(browser, plan)) };
  } catch (e) { end = { error: e.stack || String(e) }; }
  console.log(JSON.stringify({ id, ...end }));
}

const browser = await launch();
for await (const line of createInterface({ input: process.stdin })) go(JSON.parse(line));
await browser.close();
