// The client of mcppage.mjs without a page.
import './mcppage.mjs';

globalThis.run(process.env).then(console.log, (e) => {
  console.error(e.message);
  process.exit(1); // its stream may be open
});
