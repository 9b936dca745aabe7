"use strict";
(() => {
  const inspector = document.getElementById("inspector");
  const [title, detail, effect] = inspector.children;

  const show = (name, lines, words) => {
    title.textContent = name;
    detail.textContent = lines;
    effect.textContent = words;
    inspector.hidden = false;
  };

  for (const picture of document.querySelectorAll(".picture")) {
    const scroller = picture.querySelector(".scroller");
    const bars = new Map();
    for (const bar of picture.querySelectorAll(".bar")) bars.set(bar.dataset.operation, bar);
    const orders = [...picture.querySelectorAll(".order")];
    let points = orders.length ? [...orders[0].querySelectorAll("circle")] : [];
    let chosen = -1;

    const pointOf = (operation) =>
      points.findIndex((point) => point.dataset.operation === operation && !point.classList.contains("derived"));
    const effectOf = (point) =>
      point ? `takes effect as no. ${point.dataset.number}: ${point.dataset.call}\nthen the state is ${point.dataset.state}` : "";
    const tell = (bar, point) => {
      if (bar) show(bar.dataset.title, bar.dataset.detail, effectOf(point) || (points.length ? "is not in this order" : ""));
    };
    const bring = (x) => {
      const room = scroller.clientWidth - 112;
      scroller.scrollTo({ left: Math.max(0, x - room / 2) });
    };
    const choose = (bar, point, move) => {
      for (const old of picture.querySelectorAll(".chosen")) old.classList.remove("chosen");
      chosen = points.indexOf(point);
      if (point) point.classList.add("chosen");
      if (!bar) return;
      bar.classList.add("chosen");
      tell(bar, point);
      if (move) {
        const box = bar.querySelector("rect");
        bring(point ? +point.getAttribute("cx") : +box.getAttribute("x") + Math.min(+box.getAttribute("width"), 200) / 2);
      }
    };
    const step = (by) => {
      if (!points.length) return;
      const start = chosen < 0 ? (by > 0 ? -1 : points.length) : chosen;
      const point = points[Math.min(points.length - 1, Math.max(0, start + by))];
      choose(bars.get(point.dataset.operation), point, true);
    };
    const error = () => {
      const stuck = picture.querySelector(".bar.stuck");
      const line = picture.querySelector(".timeline .error");
      choose(stuck, undefined, false);
      chosen = points.length;
      if (line) bring(+line.getAttribute("x1"));
    };

    picture.addEventListener("mouseover", (event) => {
      const point = event.target.closest("circle");
      const bar = point ? bars.get(point.dataset.operation) : event.target.closest(".bar");
      if (bar) return tell(bar, point || points[pointOf(bar.dataset.operation)]);
      const span = event.target.closest(".span");
      if (span) show(span.dataset.title, span.dataset.detail, "");
    });
    picture.addEventListener("click", (event) => {
      const tool = event.target.dataset.tool;
      if (tool === "error") return error();
      if (tool === "previous") return step(-1);
      if (tool === "next") return step(1);
      const point = event.target.closest("circle");
      const bar = point ? bars.get(point.dataset.operation) : event.target.closest(".bar");
      if (bar) choose(bar, point || points[pointOf(bar.dataset.operation)], false);
    });
    picture.addEventListener("change", (event) => {
      if (event.target.dataset.tool !== "order") return;
      for (const order of orders) order.hidden = order.dataset.order !== event.target.value;
      const order = orders.find((order) => !order.hidden);
      points = order ? [...order.querySelectorAll("circle")] : [];
      chosen = -1;
    });
    scroller.addEventListener("keydown", (event) => {
      const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), e: error }[event.key];
      if (act) {
        event.preventDefault();
        act();
      }
    });
    // The label of a bar that begins left of what is seen moves along with it.
    const wide = [...bars.values()]
      .map((bar) => {
        const box = bar.querySelector("rect");
        const start = +box.getAttribute("x");
        const width = +box.getAttribute("width");
        return { text: bar.querySelector("text"), start, end: start + width };
      })
      .filter(({ start, end }) => end - start > 250);
    const slide = () => {
      const left = scroller.scrollLeft;
      for (const { text, start, end } of wide) {
        text.setAttribute("x", 5 + Math.max(start, Math.min(left, end - 200)));
      }
    };
    scroller.addEventListener("scroll", () => requestAnimationFrame(slide));

    const part = picture.closest(".part");
    part.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-go]");
      const bar = row && bars.get(row.dataset.go);
      if (!bar) return;
      picture.scrollIntoView({ block: "nearest" });
      choose(bar, points[pointOf(row.dataset.go)], true);
    });
    if (picture.querySelector(".bar.stuck")) error();
    slide();
  }
})();
