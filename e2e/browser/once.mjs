// Flows about acts whose answer comes only once, and strings that are shown only once.
import { check, until } from './browser.mjs';

// closing closes dialogs that are still working: a browser lets no page hold one open
// twice. What was asked for is told all the same when it is done, or fails.
export const closing = ({ api, browse, chat, hold, mint, open, said, signIn }) => browse({}, async ({ page, context, expecting }) => {
  const k = await mint({ name: 'nightly', max_activations: 5 }), dialog = page.getByRole('dialog'), string = page.locator('.secret code');
  const shut = () => page.evaluate(() => document.querySelector('dialog').close()); // as a phone's Back does the second time
  await signIn(page);
  await open(page, 'keys/' + k.id, 'nightly');
  let answer = await hold(page, '**/rotate');
  await page.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  await answer.asked();
  for (let i = 0; i < 2; i++) await page.keyboard.press('Escape');
  check(await dialog.count() === 1, 'Escape closes a dialog that is still working');
  await shut();
  await answer.come();
  await string.waitFor();
  check(await chat(await string.innerText()) === 200, 'another string is shown');

  await open(page, 'access', 'Access');
  await page.getByRole('heading', { name: 'researcher' }).waitFor();
  answer = await hold(page, '**/till/api/tokens');
  await page.getByRole('button', { name: 'Create a token' }).click();
  await dialog.getByLabel('Whose it is').fill('maria');
  await dialog.getByLabel('Role').selectOption('reader');
  await dialog.getByRole('button', { name: 'Create it' }).click();
  await answer.asked();
  await shut();
  await answer.come();
  await string.waitFor();
  check((await api('GET', 'keys', undefined, await string.innerText())).code === 200, 'the new token opens nothing');

  expecting('status of 500');
  let fail;
  const failing = new Promise((resolve) => { fail = resolve; });
  await context.route('**/revoke', async (route) => { await failing; await route.fulfill({ status: 500, json: { error: { message: 'it was not done' } } }); });
  const asked = page.waitForRequest('**/revoke');
  await page.getByRole('row', { name: /maria/ }).getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await asked;
  await shut();
  fail();
  await said(page, 'Revoke: It was not done.');
  check(await string.count() === 1, 'the string of a token that works is gone');

  // A server that does not answer holds nobody in a dialog.
  await context.unroute('**/revoke');
  await page.clock.install();
  answer = await hold(page, '**/revoke');
  await page.getByRole('row', { name: /maria/ }).getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await answer.asked();
  await page.clock.runFor(30000);
  check(await dialog.getByRole('button', { name: 'Revoking…' }).isDisabled(), 'an act can be asked for twice');
  await dialog.getByRole('button', { name: 'Close' }).click();
  await answer.come();
  await said(page, 'The token of maria is revoked.');
});

// left leaves a page before the string comes that was asked for there, and signs out.
export const left = ({ api, browse, chat, hold, mint, open, plan, signIn }) => browse({}, async ({ page, expecting }) => {
  const k = await mint({ name: 'nightly', max_activations: 5 }), dialog = page.getByRole('dialog'), string = page.locator('.secret code');
  const row = page.locator(`tr[data-id="${k.id}"]`);
  await signIn(page);
  await page.getByRole('link', { name: 'nightly' }).click();
  await page.getByRole('button', { name: 'Rotate' }).click();
  await dialog.waitFor();
  await page.goBack();
  await row.waitFor();
  check(await dialog.count() === 0, 'a dialog outlives its page');

  await page.goForward();
  await page.getByRole('button', { name: 'Rotate' }).click();
  let answer = await hold(page, '**/rotate');
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  await answer.asked();
  await page.goBack();
  await row.waitFor();
  await answer.come();
  await page.getByRole('heading', { name: 'The new string of nightly' }).waitFor();
  check(await row.count() === 1, 'the string takes the place of the page that is open');
  check(await chat(await string.innerText()) === 200, 'another string is shown');
  await page.getByRole('link', { name: 'Estate' }).click();
  await page.getByRole('heading', { name: 'Estate' }).waitFor();
  check(await string.count() === 1, 'the string goes with a page that is not its own');
  const former = await string.innerText();
  await open(page, 'keys/' + k.id, 'nightly');
  await page.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  await until('another string is shown', async () => (await string.allInnerTexts()).some((text) => text !== former));
  check(await string.count() === 1, 'two strings of one key are shown');
  await page.getByText('Put it to use').waitFor();
  await page.evaluate(() => { globalThis.card = new WeakRef(document.querySelector('.secret').closest('section')); });
  await page.getByRole('button', { name: 'Done' }).click();
  check(await string.count() === 0, 'the string stays when somebody is done with it');
  await until('the page forgets the string', async () => { await page.requestGC(); return page.evaluate(() => !globalThis.card.deref()); });
  check(await page.evaluate(() => document.activeElement.innerText) === 'nightly', 'Done leaves the focus nowhere');

  const submit = async (name) => {
    await open(page, 'mint', 'Mint a key');
    await page.getByLabel('Name').fill(name);
    await page.getByLabel('Activations').fill('3');
    answer = await hold(page, '**/till/api/keys');
    await page.getByRole('button', { name: 'Mint key' }).click();
    await answer.asked();
  };
  await submit('late');
  await page.getByRole('button', { name: 'Cancel' }).click();
  await row.waitFor();
  await answer.come();
  await page.getByRole('heading', { name: 'late is minted' }).waitFor();
  check(await row.count() === 1 && page.url().endsWith('#/keys'), 'the key takes the place of the page that is open', page.url());
  await page.getByText('Put it to use').waitFor();
  check(await chat(await string.innerText()) === 200, 'another string is shown');

  await submit('gone');
  check(await string.count() === 1, 'the string goes with a page that is not its own');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByText('You are signed out.').waitFor();
  await answer.come();
  check(await page.getByLabel('Admin token').count() === 1 && await page.locator('.secret').count() === 0, 'a string is shown to who has signed out');

  // A session that ends in the middle of an act.
  expecting('status of 401');
  await signIn(page, plan.second.token);
  await open(page, 'keys/' + k.id, 'nightly');
  await page.getByRole('button', { name: 'Rotate' }).click();
  answer = await hold(page, '**/rotate');
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  await answer.asked();
  check((await api('POST', `tokens/${plan.second.id}/revoke`)).code === 200, 'the second token is not revoked');
  await page.getByText('Your session is over').waitFor();
  check(await dialog.count() === 0, 'a dialog stands above the sign-in page');
  await answer.come();
  check(await page.getByLabel('Admin token').count() === 1 && await page.locator('.secret').count() === 0, 'a string is shown to who has no session');
});

// dropped drops strings that are shown: whoever signs in next is told, and nothing untrue,
// unless somebody has signed out.
export const dropped = ({ api, browse, mint, open, plan, said, signIn }) => browse({}, async ({ page, context, expecting }) => {
  expecting('status of 401');
  const k = await mint({ name: 'nightly', max_activations: 5 });
  const dialog = page.getByRole('dialog'), string = page.locator('.secret code'), notes = page.locator('#notes'), told = notes.getByText('A string that was shown is gone');
  const show = async () => {
    await open(page, 'keys/' + k.id, 'nightly');
    await page.getByRole('button', { name: 'Rotate' }).click();
    await dialog.getByRole('button', { name: 'Rotate' }).click();
    await string.waitFor();
  };
  const enter = async () => { // in the page that is open
    await page.getByLabel('Admin token').fill(plan.token);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('heading', { name: 'nightly', level: 1 }).waitFor();
  };
  const tells = async () => {
    await told.waitFor();
    check(await string.count() === 0, 'the string is not gone');
    check(!/signed in/.test(await notes.innerText()), 'it says who has signed in:', await notes.innerText());
    await page.getByRole('button', { name: 'Done' }).click();
  };
  // A session that ends.
  await signIn(page, plan.second.token);
  await show();
  check((await api('POST', `tokens/${plan.second.id}/revoke`)).code === 200, 'the second token is not revoked');
  await page.getByText('Your session is over').waitFor();
  await enter();
  await tells();
  // A link that does not work, in a session that stays.
  await show();
  await page.goto(plan.base + '/till/#signin=invented');
  await said(page, 'no longer works');
  await tells();
  // A session that has ended by the time that somebody has signed in in another tab.
  await show();
  await page.route('**/till/session', (route) => route.fulfill({ status: 401, json: { error: { code: 'unauthorized', message: 'the session is over' } } }), { times: 1 });
  const other = await context.newPage();
  await other.goto(plan.link);
  await page.getByText('The session is over').waitFor();
  await enter();
  await tells();
  // Whoever signs out drops the string.
  await show();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByText('You are signed out.').waitFor();
  await enter();
  check(await told.count() === 0, 'a string is called gone that somebody has dropped');
});

// matched ends the keys that match: of the strings that are shown, theirs go, and those of
// their children.
export const matched = ({ browse, chat, hold, mint, open, plan, said, signIn }) => browse({}, async ({ page }) => {
  const parent = await mint({ name: 'parent', max_activations: 20, delegate: true }), dialog = page.getByRole('dialog');
  const made = await fetch(plan.keys + '/till/self/keys', {
    method: 'POST', headers: { Authorization: 'Bearer ' + parent.scoped_key, 'Content-Type': 'application/json' }, body: JSON.stringify({ name: 'child', max_activations: 5 }),
  });
  check(made.status === 201, 'the child is not minted');
  const keys = [parent, { name: 'child', id: (await made.json()).id }, await mint({ name: 'other', max_activations: 5 })];
  const titles = page.locator('#notes').getByRole('heading', { name: /^The / }), shown = async () => (await titles.allInnerTexts()).sort().join();
  // Strings that come when their page was left stay above those that are opened later.
  const leave = async (answer) => {
    await answer.asked();
    await page.goBack();
    await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
    await answer.come();
  };
  await signIn(page);
  for (const k of keys) {
    await open(page, 'keys/' + k.id, k.name);
    const answer = await hold(page, `**/${k.id}/rotate`);
    await page.getByRole('button', { name: 'Rotate' }).click();
    await dialog.getByRole('button', { name: 'Rotate' }).click();
    await leave(answer);
    await titles.getByText(k.name).waitFor();
  }
  await open(page, 'access', 'Access');
  await page.getByRole('heading', { name: 'researcher' }).waitFor();
  const answer = await hold(page, '**/till/api/tokens');
  await page.getByRole('button', { name: 'Create a token' }).click();
  await dialog.getByLabel('Whose it is').fill('maria');
  await dialog.getByLabel('Role').selectOption('reader');
  await dialog.getByRole('button', { name: 'Create it' }).click();
  await leave(answer);
  await titles.getByText('maria').waitFor();
  const all = ['child', 'other', 'parent'].map((name) => 'The new string of ' + name);
  check(await shown() === [...all, 'The token of maria'].join(), 'it shows', await shown());

  await open(page, 'keys?q=parent', 'Keys');
  await page.getByRole('button', { name: 'End all that match…' }).click();
  await dialog.getByLabel('How many').fill('1');
  await dialog.getByRole('button', { name: 'End them' }).click();
  await said(page, 'revoked');
  await until('the strings of what has ended go', async () => await titles.count() === 2);
  check(await shown() === 'The new string of other,The token of maria', 'it shows', await shown());
  check(await chat(await page.locator('.secret code').last().innerText()) === 200, 'the string of a key that works is gone');
});

// tokens revokes some admin tokens: what is shown of the others stays.
export const tokens = ({ api, browse, open, plan, said, signIn }) => browse({}, async ({ page }) => {
  for (const name of ['suspect', 'accomplice']) check((await api('POST', 'tokens', { name, role: 'reader' }, plan.second.token)).code === 201, 'no token is made with the second one');
  const dialog = page.getByRole('dialog'), string = page.locator('.secret code'), named = (name) => page.getByRole('listitem').getByText(name);
  const revoke = async (name) => {
    await page.getByRole('row').filter({ has: page.getByRole('rowheader', { name, exact: true }) }).getByRole('button', { name: 'Revoke' }).click();
    await dialog.getByRole('button', { name: 'Revoke' }).click();
    await said(page, `The token of ${name} is revoked.`);
  };
  await signIn(page);
  await open(page, 'access', 'Access');
  await page.getByRole('heading', { name: 'researcher' }).waitFor();
  await page.getByRole('button', { name: 'Create a token' }).click();
  await dialog.getByLabel('Whose it is').fill('maria');
  await dialog.getByLabel('Role').selectOption('researcher');
  await dialog.getByRole('button', { name: 'Create it' }).click();
  await string.waitFor();
  await revoke('researcher');
  check(await string.count() === 1, 'the end of one token takes the string of another');
  await revoke('second');
  for (const name of ['suspect', 'accomplice']) await named(name).waitFor();
  await revoke('suspect');
  check(await named('suspect').count() === 0, 'a revoked token is said to work');
  check(await named('accomplice').count() === 1, 'a token that still works is not named any more');
  check(await string.count() === 1, 'the string of a token that works is gone');
  await revoke('maria');
  check(await string.count() === 0, 'the string of a revoked token stays');
  await page.getByRole('button', { name: 'Done' }).click();
  check(await named('accomplice').count() === 0, 'a list stays when somebody is done with it');
});
