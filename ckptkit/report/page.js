// Draws the charts of the page, in the colours of its scheme, and draws them anew when that changes.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const isTouched = matchMedia("(pointer: coarse)").matches;

  // Colours are names of CSS variables; whatever else a chart says is left as it is.
  const coloured = (value, key, style) => {
    if (Array.isArray(value)) return value.map((each) => coloured(each, key, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, name, style)]));
    }
    return /color$/.test(key) && /^--/.test(value) ? style.getPropertyValue(value).trim() : value;
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    charts.forEach((chart, at) => {
      const layout = coloured(chart.layout, "", style);
      if (isTouched) layout.dragmode = false; // a finger scrolls the page
      Plotly.react(`chart-${at}`, coloured(chart.data, "", style), layout, config);
    });
  };

  const print = (is) => {
    document.documentElement.classList.toggle("printing", is); // paper is white
    draw();
  };

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();
