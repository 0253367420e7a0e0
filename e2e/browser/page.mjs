// Opens $PAGE, lets its function run() have the environment, and prints what that
// returns, or its error.
import { chromium } from 'playwright-core';

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM, timeout: 300000,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const page = await browser.newPage();
  await page.goto(process.env.PAGE);
  const { TILL, KEY, TRANSPORT } = process.env;
  console.log(await page.evaluate((plan) => globalThis.run(plan), { TILL, KEY, TRANSPORT }));
} catch (e) {
  console.error(e.message);
  process.exitCode = 1;
} finally { await browser.close(); }
