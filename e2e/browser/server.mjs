// One browser for all flows: each has a context of its own in it. It prints where
// the browser is, and closes it when its standard input ends.
//
//	CHROMIUM=/usr/bin/chromium node server.mjs
import { chromium } from 'playwright-core';

const server = await chromium.launchServer({
  executablePath: process.env.CHROMIUM, timeout: 300000,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
console.log(server.wsEndpoint());
process.stdin.on('end', () => server.close()).resume();
