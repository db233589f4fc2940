// Confusion matrices: one for each engine and domain, built from the counts in #confusions when chosen.
"use strict";
(() => {
  const { classes, matrix, counts } = JSON.parse(document.getElementById("confusions").textContent);
  const engine = document.getElementById("confusion-engine");
  const domain = document.getElementById("confusion-domain");
  const MOST_PAIRS = 12;
  const MOST_WITH_NUMBERS = 20;
  const STRONGEST = 46; // per cent of colour in a cell; more and its number could not be read

  const element = (name, text, settings = {}) => {
    const made = Object.assign(document.createElement(name), settings);
    if (text !== null) made.textContent = text;
    return made;
  };

  const drawMatrix = (triples, totals) => {
    const table = element("table", null, { className: "matrix" + (classes.length > MOST_WITH_NUMBERS ? " dense" : "") });
    const head = table.createTHead().insertRow();
    head.append(element("td", null));
    head.firstChild.style.background = "none";
    for (const name of classes) {
      const cell = element("th", null, { scope: "col", title: name });
      cell.append(element("span", name));
      head.append(cell);
    }
    const found = new Map(triples.map(([truth, predicted, n]) => [truth * classes.length + predicted, n]));
    const body = table.createTBody();
    classes.forEach((name, truth) => {
      const row = body.insertRow();
      row.append(element("th", name, { scope: "row", title: name }));
      classes.forEach((other, predicted) => {
        const n = found.get(truth * classes.length + predicted) || 0;
        const share = totals[truth] ? n / totals[truth] : 0;
        const cell = row.insertCell();
        cell.title = `${name} taken for ${other}: ${n} of ${totals[truth]}`;
        cell.style.setProperty("--share", `${n ? Math.max(9, STRONGEST * Math.sqrt(share)) : 0}%`);
        cell.style.setProperty("--hue", truth === predicted ? "var(--s1)" : "var(--s0)");
        if (n && classes.length <= MOST_WITH_NUMBERS) cell.textContent = n;
      });
    });
    return table;
  };

  const show = () => {
    const triples = counts[engine.value][domain.value];
    const totals = counts.totals[domain.value];
    if (matrix) document.getElementById("confusion-matrix").replaceChildren(drawMatrix(triples, totals));
    const body = document.getElementById("confusion-pairs");
    const wrong = triples.filter(([truth, predicted]) => truth !== predicted).sort((a, b) => b[2] - a[2]);
    body.replaceChildren(...wrong.slice(0, MOST_PAIRS).map(([truth, predicted, n]) => {
      const row = element("tr", null);
      row.append(element("th", classes[truth], { scope: "row" }), element("td", classes[predicted], { className: "words" }));
      row.append(element("td", n), element("td", (100 * n / totals[truth]).toFixed(1)));
      return row;
    }));
  };
  if (engine.value) { // none where no engine could be measured
    engine.addEventListener("change", show);
    domain.addEventListener("change", show);
    show();
  }
  // What is folded away on the screen belongs on paper.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
