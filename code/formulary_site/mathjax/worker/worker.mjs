// Renders TeX to HTML: one request and one reply a line, as JSON.
//
//   node worker.mjs FOLDER          FOLDER holds node_modules
//   first line out                  {"base": [rule, ...]}
//   in   {"items": [[tex, display], ...]}
//   out  {"results": [{"html": ..., "css": [rule, ...]} | {"error": ...} | {"failure": ...}, ...]}
//
// `base` are the CSS rules that every page needs, `css` the further ones of one formula. Each
// formula's list is complete in itself, so that any set of formulas, from this process or from
// an older one's cache, has a stylesheet: the union of their rules.

import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

console.log = console.error; // stdout belongs to the protocol

const entry = join(process.argv[2], 'node_modules', 'mathjax', 'node-main.mjs');
const { default: MathJax } = await import(pathToFileURL(entry).href);

const packages = ['base', 'ams', 'boldsymbol', 'mathtools', 'textmacros'];

await MathJax.init({
  loader: {
    load: [
      'input/tex-base', // unlike input/tex: no noerrors, noundefined, newcommand, autoload
      ...packages.slice(1).map((name) => `[tex]/${name}`),
      'output/chtml',
      'adaptors/liteDOM',
      'a11y/assistive-mml',
    ],
  },
  tex: {
    packages,
    formatError: (_jax, error) => {
      throw error;
    },
  },
  output: {
    font: 'mathjax-newcm',
    displayOverflow: 'overflow', // the page's container scrolls
    linebreaks: { inline: true }, // the browser may break inline formulas at relations
    unknownFamily: 'var(--md-text-font-family, sans-serif)', // Chinese in \text
  },
  chtml: { fontURL: 'fonts' },
  startup: { typeset: false },
});

const { document: page, adaptor } = MathJax.startup;
const output = page.outputJax;

// The card has the LaTeX to copy; here it would stand twice at every node.
page.inputJax[0].postFilters.add(({ data }) =>
  data.root.walkTree((node) => {
    node.attributes?.unset('data-latex');
    node.attributes?.unset('data-latex-item');
  })
);

const fonts = new Map(); // "NCM-B" → its rules; MathJax names a font that it loads later just once

/** The stylesheet for what was rendered since the last call; rules of fonts go to `fonts`. */
function newRules() {
  const sheet = adaptor.cssText(MathJax.chtmlStylesheet());
  output.clearCache();
  return sheet
    .trim()
    .split(/\n{2,}/) // rules are parted by an empty line and hold none
    .map((rule) => rule.replace(/\/\*.*?\*\//g, '').replace(/\s*\n\s*/g, '').replace(/ \{/, '{'))
    .filter((rule) => {
      const name = rule.match(/^(?:@font-face ?\{font-family: ?MJX-|\.)(NCM-[\w-]+)/)?.[1];
      if (name && name !== 'NCM-ZERO') {
        fonts.set(name, (fonts.get(name) ?? new Set()).add(rule));
        return false;
      }
      return true;
    });
}

// Without it "m−n" could break before the minus sign.
const short = 12; // glyphs; a line of a phone holds about 40
const base = [
  ...newRules(),
  'mjx-container[jax="CHTML"] mjx-break.kept{white-space: pre;}',
  'mjx-container[jax="CHTML"].short mjx-break{white-space: pre;}',
];
const inBase = new Set(base);

/** Keep a line from breaking inside brackets, and between a sign and its number. */
function keepTogether(html) {
  let depth = 0;
  return html.replace(/<mjx-c class="mjx-c(28|5B|29|5D)"|<mjx-break size="(\d)"/g, (tag, bracket, size) => {
    if (bracket) {
      depth += bracket === '28' || bracket === '5B' ? 1 : -1;
      return tag;
    }
    return depth > 0 || size === '0' ? `${tag} class="kept"` : tag;
  });
}

async function render([tex, display]) {
  MathJax.texReset(); // forgets the last formula's labels
  try {
    const node = await MathJax.tex2chtmlPromise(tex, { display });
    if (!display && adaptor.tags(node, 'mjx-c').length < short) adaptor.addClass(node, 'short');
    const html = keepTogether(adaptor.outerHTML(node))
      .replace(/ xmlns="[^"]*"| data-mjx-[\w-]+="[^"]*"/g, '') // HTML needs neither
      .replaceAll('\n', '&#10;'); // one line, so that no later step indents the inside of a brace
    const own = newRules().filter((rule) => !inBase.has(rule));
    const used = new Set(`${html}${own.join('')}`.match(/NCM-[\w-]+/g));
    const css = [...used].sort().flatMap((name) => [...(fonts.get(name) ?? [])]);
    return { html, css: [...css, ...own] };
  } catch (error) {
    // MathJax's TexError alone has an id
    return error.id ? { error: error.message } : { failure: error.stack ?? String(error) };
  }
}

const send = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

send({ base });
for await (const line of createInterface({ input: process.stdin })) {
  const results = [];
  for (const item of JSON.parse(line).items) {
    results.push(await render(item)); // one at a time: rules are counted per formula
  }
  send({ results });
}
