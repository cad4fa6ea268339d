"use strict";
for (const section of document.querySelectorAll(".task")) {
  for (const button of section.querySelectorAll("[data-toggle]")) {
    const parts = section.querySelectorAll(`.drawing [data-row="${button.dataset.toggle}"]`);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      for (const part of parts) part.classList.toggle("off", !on);
    });
    const light = (on) => {
      section.classList.toggle("focus", on && button.getAttribute("aria-pressed") === "true");
      for (const part of parts) part.classList.toggle("lit", on);
    };
    button.addEventListener("pointerenter", () => light(true));
    button.addEventListener("pointerleave", () => light(false));
  }
  for (const chart of section.querySelectorAll(".chart")) hover(section, chart);
}

function hover(section, chart) {
  const svg = chart.querySelector("svg"), drawing = chart.querySelector(".drawing");
  const points = JSON.parse(chart.querySelector("script").textContent);
  const tip = document.createElement("div"), marker = document.createElementNS(svg.namespaceURI, "circle");
  tip.className = "tip";
  marker.setAttribute("class", "marker");
  marker.setAttribute("r", 5);
  const hide = () => { tip.remove(); marker.remove(); };
  const show = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let nearest = null, least = 40 ** 2;
    for (const [row, x, y, text] of points) {
      const button = section.querySelector(`[data-toggle="${row}"]`);
      const distance = (x - at.x) ** 2 + (y - at.y) ** 2;
      if (distance < least && button.getAttribute("aria-pressed") === "true") [nearest, least] = [[row, x, y, text], distance];
    }
    if (!nearest) return hide();
    const [row, x, y, text] = nearest;
    marker.setAttribute("cx", x);
    marker.setAttribute("cy", y);
    marker.style.stroke = `var(--row-${row})`;
    svg.append(marker);
    tip.textContent = text;
    chart.append(tip);
    const place = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()), box = chart.getBoundingClientRect();
    const left = place.x - box.left - tip.offsetWidth / 2, top = place.y - box.top - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(6, Math.min(left, box.width - tip.offsetWidth - 6))}px`;
    tip.style.top = `${top < 4 ? top + tip.offsetHeight + 26 : top}px`;
  };
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointerleave", hide);
}
