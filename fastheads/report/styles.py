"""The style sheet of every report: light and dark, phone and desktop, no external resource."""

from fastheads.report.rows import ROWS

_LIGHT = "".join(f"--row-{row.key}:{row.color};" for row in ROWS)
_DARK = "".join(f"--row-{row.key}:{row.dark};" for row in ROWS)

CSS = (
    ":root{color-scheme:light dark;--page:#fbfbf8;--surface:#fff;--ink:#1b1d20;--muted:#5d6167;"
    "--line:#dedcd5;--accent:#0b62a8;--good:#00704f;--warning:#a33f00;"
    + _LIGHT
    + "}\n@media(prefers-color-scheme:dark){:root{--page:#121417;--surface:#191c20;--ink:#e9e8e3;"
    "--muted:#a0a5ac;--line:#343a41;--accent:#58a9f0;--good:#3fc79b;--warning:#f39a5c;"
    + _DARK
    + """}
.ink,svg.chart image{filter:invert(1) hue-rotate(180deg)}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;padding:2.5rem 1.5rem 5rem;max-width:75rem;background:var(--page);
  color:var(--ink);font:1rem/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
  "Liberation Sans","DejaVu Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:clamp(1.7rem,1.2rem + 2.4vw,2.7rem);line-height:1.15;letter-spacing:-.02em;
  margin:0 0 .9rem;text-wrap:balance}
h2{font-size:1.45rem;line-height:1.25;letter-spacing:-.01em;margin:0 0 .8rem}
h3{font-size:1.02rem;line-height:1.35;margin:1.8rem 0 .5rem}
p{max-width:44rem;margin:0 0 1rem}
a{color:var(--accent);text-underline-offset:.15em}
section{padding-top:1.7rem;margin-top:2.6rem;border-top:1px solid var(--line)}
.lead{font-size:1.14rem;line-height:1.55;max-width:48rem}
.small,figcaption{font-size:.87rem;line-height:1.5;color:var(--muted)}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
  font-size:.86rem}
pre{padding:.8rem 1rem;border:1px solid var(--line);border-radius:.5rem;background:var(--surface);
  white-space:pre-wrap;overflow-wrap:anywhere;margin:0 0 1rem}
nav ol{display:flex;flex-wrap:wrap;gap:.25rem 1.3rem;list-style:none;margin:1.4rem 0 0;padding:0;
  font-size:.92rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.8rem;
  margin:1.6rem 0}
.tiles div{padding:.8rem 1rem;border:1px solid var(--line);border-radius:.6rem;
  background:var(--surface)}
.tiles dt{font-size:.84rem;line-height:1.35;color:var(--muted)}
.tiles dd{margin:.15rem 0 0;font-size:1.55rem;font-weight:650;letter-spacing:-.01em;
  line-height:1.25;font-variant-numeric:tabular-nums}
.tiles dd small{display:block;font-size:.82rem;font-weight:400;letter-spacing:0;color:var(--muted);
  line-height:1.4}
.notice{max-width:48rem;margin:1.2rem 0;padding:.8rem 1rem;border-left:.28rem solid var(--muted);
  background:var(--surface);border-radius:0 .5rem .5rem 0;font-size:.95rem}
.notice.good{border-color:var(--good)}
.notice.warning{border-color:var(--warning)}
figure{margin:1.4rem 0;min-width:0}
figcaption{max-width:44rem;margin-top:.5rem}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));
  gap:.6rem 2.2rem;align-items:start;margin:1.2rem 0}
.columns.thirds{grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))}
.columns>figure{margin:0 0 .8rem}
svg.chart{display:block;width:100%;max-width:29rem;height:auto;overflow:visible}
svg.chart *{stroke-linejoin:round;stroke-linecap:butt}
.chart .bound{fill:none;stroke:var(--accent);stroke-width:1.2px}
.chart text{fill:var(--muted)}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;list-style:none;margin:.6rem 0 .8rem;padding:0;
  font-size:.87rem}
.mark{display:inline-block;width:1.15em;text-align:center;margin-right:.3em;text-indent:0}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:.6rem;background:
  linear-gradient(to left,var(--surface) 1rem,transparent) right/2rem 100% no-repeat local,
  linear-gradient(to left,rgb(0 0 0/.22),transparent) right/.8rem 100% no-repeat,var(--surface)}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:2px solid var(--accent);
  outline-offset:2px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.89rem;line-height:1.4;
  font-variant-numeric:tabular-nums lining-nums}
th,td{padding:.5rem .75rem;border-top:1px solid var(--line);text-align:left;vertical-align:baseline;
  font-weight:400}
thead th{border-top:0;font-size:.8rem;line-height:1.3;font-weight:600;color:var(--muted);
  vertical-align:bottom}
.r{text-align:right}
thead .r{min-width:3.7rem}
td.r{white-space:nowrap}
tbody .l{min-width:9rem}
tbody tr>.l:first-child{min-width:13rem}
tbody small{display:block;text-indent:0;font-size:.92em;color:var(--muted)}
tbody th:has(.mark){padding-left:2.15rem;text-indent:-1.45em}
.narrow{max-width:40rem}
tr>:first-child{position:sticky;left:0;z-index:1;background:var(--surface)}
td b{font-weight:680}
.paper{color:var(--muted)}
td .agrees,.findings .agrees{color:var(--good);font-weight:600}
td .contradicts,.findings .contradicts{color:var(--warning);font-weight:600}
td .undecided,td .not-measured{color:var(--muted)}
.bar{display:inline-block;height:.6em;min-width:1px;border-radius:1px;background:var(--accent)}
.bar.before{background:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));gap:1rem;
  margin:1.2rem 0}
.card{min-width:0;padding:.9rem 1rem;border:1px solid var(--line);border-radius:.6rem;
  background:var(--surface)}
.card h3{margin:0 0 .1rem}
.card p{margin:0 0 .6rem}
.card>p:last-child{margin:.45rem 0 0}
.sheet{display:flex;flex-wrap:wrap;gap:.3rem;margin:.5rem 0 0}
.sheet figure{margin:0;width:4rem}
.sheet figcaption{margin:.1rem 0 0;font-size:.86rem;line-height:1.35;text-align:center;
  max-height:2.7em;  overflow:hidden;overflow-wrap:anywhere}
.pixels{display:block;max-width:100%;height:auto;image-rendering:pixelated;
  border-radius:.2rem;outline:1px solid color-mix(in srgb,var(--line) 55%,transparent)}
.pixels.ink{outline-color:rgb(0 0 0/.09)}
.label{font-weight:600}
.sheet .label{font-weight:500;color:var(--ink)}
.pair{display:flex;flex-wrap:wrap;gap:.2rem 1rem;align-items:center}
.errors{flex:1 1 8rem;display:grid;grid-template-columns:max-content 1fr;gap:.1rem .6rem;
  align-items:center;
  font-size:.86rem;margin:.5rem 0 0;font-variant-numeric:tabular-nums}
.errors dt{color:var(--muted)}
.errors dd{margin:0;white-space:nowrap}
.errors .bar{margin-right:.4em}
.findings{max-width:48rem;margin:0 0 1.2rem;padding-left:1.2rem}
.findings li{margin:.35rem 0}
.top{list-style:none;margin:0;padding:0;flex:1 1 9rem;font-size:.92rem}
.right,.right .label{color:var(--good)}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600}
dl.terms{max-width:48rem}
.terms dt{font-weight:650;margin-top:.8rem}
.terms dd{margin:.1rem 0 0}
footer{margin-top:3rem;font-size:.87rem;color:var(--muted)}
@media(max-width:40rem){body{padding:1.4rem 1rem 3rem}.lead{font-size:1.05rem}
th,td{padding:.42rem .55rem}tbody tr>.l:first-child{min-width:8.2rem;max-width:9.5rem}
.tiles{grid-template-columns:1fr 1fr;gap:.6rem}.tiles div{padding:.6rem .7rem}
.tiles dd{font-size:1.28rem}.card{padding:.8rem .68rem}.sheet{gap:.2rem}}
@media print{body{max-width:none;padding:0}.card,figure,tr{break-inside:avoid}nav{display:none}}
"""
)
