(() => {
  // The first illegal step is chosen from the start; what it is, is told when it is pointed at.
  const inspector = document.getElementById("inspector");
  const hide = () => { inspector.hidden = true; };
  hide();
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("click", (event) => { if (!event.target.closest(".picture, #inspector, tr[data-go]")) hide(); });

  const copy = document.querySelector("[data-tool=copy]");
  copy.addEventListener("click", () => {
    const command = document.querySelector(".command code");
    const said = (words) => { copy.textContent = words; };
    // From a file there may be no clipboard: then it is selected, to be copied by hand.
    const select = () => { getSelection().selectAllChildren(command); said("selected"); };
    if (navigator.clipboard) navigator.clipboard.writeText(command.textContent).then(() => said("copied"), select);
    else select();
  });

  const choice = document.querySelector("[data-tool=function]");
  if (choice) choice.addEventListener("change", () => {
    for (const chart of document.querySelectorAll(".chart-of")) chart.hidden = chart.dataset.function !== choice.value;
  });

  const scroller = document.querySelector(".lane-scroller");
  const picture = document.querySelector(".lane-picture");
  const words = [...picture.querySelectorAll(".words")].map((text) => ({ text, x: +text.getAttribute("x"), room: +text.dataset.room, needs: +text.dataset.needs }));
  const ticks = [...picture.querySelectorAll(".tick")];
  let zoom = 1;
  // Text is drawn at its own size however far the picture is stretched, and only where it fits.
  const fit = () => {
    const pixels = scroller.clientWidth * zoom / 1000;
    picture.style.setProperty("--unstretch", 1 / pixels);
    const left = scroller.scrollLeft / pixels;
    for (const { text, x, room, needs } of words) {
      // A label whose beginning is scrolled away moves along.
      const from = Math.max(x, Math.min(left, x + room));
      text.toggleAttribute("hidden", (x + room - from) * pixels < needs);
      text.setAttribute("x", from + 4 / pixels);
    }
    for (const tick of ticks) tick.setAttribute("x", +tick.dataset.x + 3 / pixels);
    const crowded = pixels * 1000 / Math.max(ticks.length, 1) < 52;
    ticks.forEach((tick, index) => {
      const room = (1000 - +tick.dataset.x) * pixels;
      tick.toggleAttribute("hidden", room < 45 || (crowded && index % 2 > 0));
    });
  };
  const go = (wanted, middle) => {
    const center = middle ?? (scroller.scrollLeft + scroller.clientWidth / 2) / (scroller.clientWidth * zoom) * 1000;
    zoom = Math.min(64, Math.max(1, wanted));
    picture.style.setProperty("--zoom", zoom);
    scroller.scrollLeft = center / 1000 * scroller.clientWidth * zoom - scroller.clientWidth / 2;
    fit();
  };
  const steps = { in: () => go(zoom * 2), out: () => go(zoom / 2), all: () => go(1) };
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", steps[button.dataset.zoom]);
  for (const button of document.querySelectorAll("[data-mark]")) button.addEventListener("click", () => go(Math.max(zoom, 16), +button.dataset.mark));
  scroller.addEventListener("keydown", (event) => {
    const step = { "+": steps.in, "=": steps.in, "-": steps.out, 0: steps.all }[event.key];
    if (step) { event.preventDefault(); step(); }
  });
  scroller.addEventListener("scroll", () => requestAnimationFrame(fit));
  addEventListener("resize", fit);
  fit();
})();
