"use strict";
// Draws every figure in order, giving the browser a chance to paint between them.
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const config = read("config");
  const narrow = window.innerWidth < 600;
  config.axisY.labelLimit = narrow ? 120 : 300;
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    config,
    ast: true, // No code from strings: the page's own policy forbids it.
    tooltip: { theme: "page" },
  };
  const failed = [];
  for (const place of document.querySelectorAll("[data-figure]")) {
    try {
      await vegaEmbed(place, figures[Number(place.dataset.figure)], options);
    } catch (error) {
      place.textContent = "This figure could not be drawn; its numbers stand below.";
      failed.push(error);
    }
  }
  document.documentElement.dataset.drawn = String(figures.length - failed.length);
  performance.mark("figures-drawn");
  if (failed.length) throw failed[0];
})();
