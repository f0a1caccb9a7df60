"""The style of a page: light, dark and on paper, at any width."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1f2328; --quiet: #59636e; --paper: #ffffff; --card: #f6f8fa; --line: #d1d9e0;
  --grid: #e3e7eb; --spine: #9aa4ae; --shade: #eceff2;
  --right: 0 114 178; --wrong: 213 94 0;
  --curve-0: #0072b2; --curve-1: #d55e00; --curve-2: #009e73;
  --curve-3: #b2568f; --curve-4: #b97f00; --curve-5: #3e94c4;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6eaef; --quiet: #9aa5b1; --paper: #0f1318; --card: #181d24; --line: #343c46;
    --grid: #29303a; --spine: #66717d; --shade: #1e252e;
    --right: 58 152 213; --wrong: 232 122 48;
    --curve-0: #4fa8e0; --curve-1: #f08a4b; --curve-2: #35c79b;
    --curve-3: #dd9bc4; --curve-4: #eab54d; --curve-5: #8fd0f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem;
  color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h3 { font-size: 1rem; margin: 1rem 0 .5rem; break-after: avoid; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); break-after: avoid; }
p { margin: .5rem 0; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .875rem; }
.warning { padding: .6rem .9rem; border-left: 4px solid rgb(var(--wrong));
  background: var(--card); }
.tiles { display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile { padding: .7rem .9rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); break-inside: avoid; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-weight: 600; }
.tile:first-child b { color: rgb(var(--right)); }
.tile span { color: var(--quiet); font-size: .875rem; }
.curves { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; break-inside: avoid; min-width: 0; }
.curves figcaption { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit !important; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: .25rem 0 0; padding: 0;
  list-style: none; font-size: .875rem; }
.legend i { display: inline-block; width: 1.6em; margin-right: .45em; vertical-align: .25em;
  border-top: 3px solid; }
.scrolls { overflow: auto; max-width: 100%; max-height: 42rem; }
.whole { max-height: none; }
.scrolls:focus-visible { outline: 2px solid rgb(var(--right)); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: normal; }
td { overflow-wrap: anywhere; }
td:first-child { overflow-wrap: break-word; }
thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.bar { display: inline-block; width: 4rem; height: .55rem; margin-left: .6rem;
  background: var(--shade); border-radius: .3rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: rgb(var(--right)); }
.bar, .matrix td, .strip, .strip *, .legend i { print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.matrix { font-size: .8rem; }
.matrix th, .matrix td { border: 0; padding: .2rem; text-align: center; vertical-align: middle; }
.matrix td { min-width: 2.3rem; height: 2rem; border: 1px solid var(--paper);
  background: var(--card); }
.matrix tbody th { text-align: right; padding-right: .5rem; font-weight: 400; color: var(--ink);
  position: sticky; left: 0; background: var(--paper); max-width: 9rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.matrix thead th { vertical-align: bottom; font-weight: 400; color: var(--ink); }
.matrix thead th .turned { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; display: inline-block; }
.matrix td.full { color: #fff; }
.matrix.small { font-size: .55rem; }
.small td { min-width: .55rem; height: .65rem; padding: 0; border-width: 0; }
.small th { padding: 0; line-height: 1; }
.strip { position: relative; display: block; min-width: 7rem; width: 100%; height: 1.2rem;
  background: linear-gradient(var(--line), var(--line)) center / 100% 1px no-repeat; }
.strip i { position: absolute; top: .35rem; width: .5rem; height: .5rem; margin-left: -.25rem;
  border-radius: 50%; background: rgb(var(--right)); opacity: .85; }
.strip b { position: absolute; top: .52rem; height: .18rem; background: rgb(var(--right) / .4); }
.second i { background: rgb(var(--wrong)); }
.second b { background: rgb(var(--wrong) / .4); }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.pictures img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--card); border: 1px solid var(--line); border-radius: .35rem;
  image-rendering: auto; }
.pictures .pixels { image-rendering: pixelated; }
.pictures figcaption { margin-top: .3rem; line-height: 1.35; }
.pictures b { color: var(--ink); font-weight: 600; }
.columns { display: grid; gap: 1rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem 1rem; margin: 0;
  font-size: .9rem; align-content: start; }
dt { color: var(--quiet); }
dd { margin: 0; }
pre { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); white-space: pre-wrap; font-size: .875rem; }
@media screen and (max-width: 36rem) {
  th, td { padding: .3rem .35rem; }
  table { font-size: .8rem; }
  thead th, .number { white-space: normal; overflow-wrap: normal; }
  .bar { display: none; }
  .strip { min-width: 3rem; }
  .matrix { font-size: .7rem; }
  .matrix th, .matrix td { padding: 0; }
  .matrix td { min-width: 1.5rem; height: 1.5rem; }
  .matrix tbody th { max-width: 5rem; padding-right: .25rem; }
}
@media print {
  body { padding: 0; max-width: none; font-size: 10pt; }
  .scrolls { overflow: visible; max-height: none; }
  .matrix tbody th { position: static; }
}
"""
