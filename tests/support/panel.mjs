// Looks at the panel with a real browser, as people of all kinds do: small screens, dark, keyboard only, without
// scripts, with a screen reader's rules. Prints one line a finding, and `done` at the end.
//
// node panel.mjs looks|uses TOOLS URL ADMIN_TOKEN CUSTOMER_TOKEN STORE [SCREENSHOTS]
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const [, , part, tools, url, admin, customer, store, shots] = process.argv;
const require = createRequire(`${tools}/x.js`);
const { chromium } = require('playwright-core');
const { HtmlValidate, StaticConfigLoader } = require('html-validate');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const wrong = (text) => console.log(`wrong: ${text}`);
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'] });

async function enter(options, token) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on('pageerror', (error) => wrong(`script: ${error.message}`));
  page.on('console', (message) => {
    const text = message.text();
    // One of the pages is meant not to be there.
    if (message.type() === 'error' && !/ 40[14] /.test(text)) wrong(`console: ${text}`);
  });
  await page.goto(`${url}/login`);
  await page.fill('#token', token);
  await page.press('#token', 'Enter');
  await page.waitForURL(`${url}/`);
  return { context, page };
}

const paths = { admin: ['/', `/stores/${store}`, '/audit', '/nothing', '/?need=held&q=zzz'], customer: ['/', `/stores/${store}`] };

// Every page at every size, light and dark: nothing is cut off, and axe finds nothing.
const sizes = [[360, 740], [768, 1024], [1440, 900], [2560, 1440]];
for (const colorScheme of part === 'looks' ? ['light', 'dark'] : []) {
  for (const [width, height] of sizes) {
    for (const [role, token] of [['admin', admin], ['customer', customer]]) {
      const { context, page } = await enter({ viewport: { width, height }, colorScheme }, token);
      for (const path of paths[role]) {
        const where = `${role} ${path} at ${width} px, ${colorScheme}`;
        await page.goto(url + path);
        await page.evaluate(() => document.querySelectorAll('details').forEach((one) => { one.open = true; }));
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (over > 0) wrong(`${where}: ${over} px wider than the screen`);
        const small = await page.evaluate(() => [...document.querySelectorAll('button, select, input:not([type=hidden]), summary, nav a, .chips a')]
          .filter((one) => one.getClientRects().length && one.getBoundingClientRect().height < 43.5).map((one) => one.outerHTML.slice(0, 80)));
        if (small.length) wrong(`${where}: too small to touch: ${small.join(' | ')}`);
        if (width === 360 || (width === 1440 && role === 'admin')) {
          // The policy allows no script but the panel's; axe is put in by the browser itself.
          const found = await (async () => {
            const session = await context.newCDPSession(page);
            const evaluate = async (expression) => {
              const { result, exceptionDetails } = await session.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
              if (exceptionDetails) throw new Error(exceptionDetails.text);
              return result.value;
            };
            await evaluate(axe);
            return evaluate('axe.run().then((r) => r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3).join(" | ")))');
          })();
          for (const one of found) wrong(`${where}: axe: ${one}`);
        }
        if (shots) {
          const name = path === '/' ? 'stores' : path.replace(/\W+/g, '-').replace(/^-/, '');
          await page.evaluate(() => document.querySelectorAll('details').forEach((one) => { one.open = false; }));
          await page.screenshot({ path: `${shots}/${role}-${name}-${width}-${colorScheme}.png`, fullPage: width < 800 });
        }
      }
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0));
      if ((ground < 384) !== (colorScheme === 'dark')) wrong(`${colorScheme} is ${ground}`);
      await context.close();
    }
  }
}

// Valid HTML, as the server sends it.
if (part === 'looks') {
  const { context, page } = await enter({}, admin);
  const loader = new StaticConfigLoader({ extends: ['html-validate:standard'], rules: { 'long-title': 'off', 'no-inline-style': 'error' } });
  const validator = new HtmlValidate(loader);
  for (const path of [...paths.admin, '/login']) {
    const text = await (await context.request.get(url + path)).text();
    const report = await validator.validateString(text);
    for (const result of report.results) for (const one of result.messages) wrong(`${path}: HTML: ${one.ruleId}: ${one.message}: ${text.split('\n')[one.line - 1].slice(Math.max(0, one.column - 60), one.column + 60)}`);
  }
  await context.close();
}

// A row changes while one looks, without a new page, and so does a store's own page.
if (part === 'uses') {
  const { context, page } = await enter({}, admin);
  const other = (await enter({}, admin));
  await page.evaluate(() => { window.sameDocument = true; });
  await page.waitForFunction(() => document.documentElement.dataset.live === 'yes');
  await other.page.goto(`${url}/stores/${store}`);
  await other.page.click('.actions summary');
  await other.page.fill('#hold-reason', 'a <b>look</b>');
  await other.page.click('form[action$="/hold"] button');
  await other.page.waitForSelector('.told');
  await page.waitForFunction((id) => document.getElementById(id).textContent.includes('held'), `row-${store}`, { timeout: 20000 });
  if (!(await page.evaluate(() => window.sameDocument))) wrong('the row came with a new page');
  const counts = await page.textContent('#counts');
  if (!counts.includes('held')) wrong(`the counts did not change: ${counts}`);
  // The other page learns of the release, which this one makes.
  await page.goto(`${url}/stores/${store}`);
  const said = await page.textContent('.sentence .what');
  if (!said.includes('is held: a <b>look</b>')) wrong(`the sentence is: ${said}`);
  await page.click('form[action$="/release"] button');
  await page.waitForSelector('.told.good');
  await other.page.waitForFunction(() => !document.querySelector('.sentence').textContent.includes('held'), null, { timeout: 20000 });
  await context.close();
  await other.context.close();
}

// Without scripts everything works.
if (part === 'uses') {
  const context = await browser.newContext({ javaScriptEnabled: false, viewport: { width: 360, height: 740 } });
  const page = await context.newPage();
  await page.goto(`${url}/stores/${store}`);
  await page.fill('#token', admin);
  await page.click('button.main');
  if (!page.url().endsWith(`/stores/${store}`)) wrong(`the login went on to ${page.url()}`);
  await page.click('.actions summary');
  await page.click('form[action$="/hold"] button');
  if (!(await page.textContent('.told')).includes('Held.')) wrong('a hold without scripts');
  await page.click('form[action$="/release"] button');
  if (!(await page.textContent('.told')).includes('Released.')) wrong('a release without scripts');
  await page.goto(`${url}/`);
  await page.fill('input[type=search]', 'zzz');
  await page.press('input[type=search]', 'Enter');
  if (!(await page.textContent('main')).includes('No store is like that')) wrong('the search without scripts');
  const refresh = await page.content();
  if (!/<noscript>\s*<meta http-equiv="refresh" content="10">/.test(refresh)) wrong('nothing shows the page anew');
  await page.click('.who button');
  if (!page.url().endsWith('/login')) wrong('the logout without scripts');
  await context.close();
}

// With the keyboard alone: in, to a store, hold it, release it, out. What has the focus is seen.
if (part === 'uses') {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  await page.goto(`${url}/login`);
  await page.waitForFunction(() => document.activeElement.id === 'token');
  await page.keyboard.type(admin);
  await page.keyboard.press('Enter');
  await page.waitForURL(`${url}/`);
  const to = async (what, limit = 60) => {
    for (let step = 0; step < limit; step += 1) {
      await page.keyboard.press('Tab');
      const found = await page.evaluate((selector) => {
        const active = document.activeElement;
        if (!active.matches(selector)) return null;
        return getComputedStyle(active).outlineStyle !== 'none';
      }, what);
      if (found === false) wrong(`the focus on ${what} is not seen`);
      if (found !== null) return;
    }
    wrong(`the keyboard does not reach ${what}`);
  };
  await to('.skip');
  await to(`a[href="/stores/${store}"]`);
  await page.keyboard.press('Enter');
  await page.waitForURL(`${url}/stores/${store}`);
  await to('.actions summary');
  await page.keyboard.press('Enter');
  await to('#hold-reason');
  await page.keyboard.type('with keys');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.told.good');
  await to('form[action$="/release"] button');
  await page.keyboard.press('Space');
  await page.waitForSelector('.told.good');
  await to('.who button');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${url}/login`);
  await context.close();
}

// A link in another site's page leads to the page, though the cookie is for this site's requests alone.
if (part === 'uses') {
  const { context, page } = await enter({}, admin);
  await context.route('http://mail.example/', (route) => route.fulfill({ contentType: 'text/html', body: `<a href="${url}/stores/${store}">look</a>` }));
  await page.goto('http://mail.example/');
  await page.click('a');
  await page.waitForSelector('.sentence', { timeout: 10000 }).catch(() => wrong(`the link from elsewhere led to ${page.url()}`));
  await context.close();
}

await browser.close();
console.log('done');
