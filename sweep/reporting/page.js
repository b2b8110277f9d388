"use strict";
// The tooltip: for the mark nearest to the pointer, and for the one that the keyboard is on.
(() => {
  const tip = document.getElementById("tip");
  const REACH = 26; // px around the pointer
  let shown = null;

  const hide = () => {
    if (shown) shown.classList.remove("on");
    shown = null;
    tip.hidden = true;
  };

  const show = (mark) => {
    if (shown === mark) return;
    hide();
    shown = mark;
    mark.classList.add("on");
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    place(mark);
  };

  const place = (mark) => {
    const box = mark.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = box.left + box.width / 2 - size.width / 2;
    const above = box.top - size.height - 8;
    tip.style.left = Math.max(8, Math.min(left, innerWidth - size.width - 8)) + "px";
    tip.style.top = (above > 8 ? above : Math.min(box.bottom + 8, innerHeight - size.height - 8)) + "px";
  };

  for (const plot of document.querySelectorAll("svg[role=group]")) {
    const marks = [...plot.querySelectorAll(".mark")].filter((mark) => mark.querySelector("title"));
    if (!marks.length) continue;
    const places = marks.map((mark) => mark.getAttribute("transform").match(/-?[\d.]+/g).map(Number));
    marks.forEach((mark) => {
      const title = mark.querySelector("title");
      mark.setAttribute("aria-label", title.textContent);
      mark.setAttribute("role", "img");
      mark.setAttribute("tabindex", "-1");
      title.remove(); // else the browser shows a second tooltip
    });
    marks[0].setAttribute("tabindex", "0");

    const nearest = (event) => {
      const bar = event.target.closest && event.target.closest(".mark");
      if (bar && bar.hasAttribute("aria-label")) return bar;
      const box = plot.getBoundingClientRect(), scale = plot.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, least = REACH * scale;
      places.forEach(([a, b], i) => {
        const distance = Math.hypot(a - x, b - y);
        if (distance <= least) { least = distance; best = marks[i]; }
      });
      return best;
    };
    const follow = (event) => { const mark = nearest(event); if (mark) show(mark); else hide(); };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });

    const order = marks.map((_, i) => i).sort((i, j) => places[i][0] - places[j][0] || places[i][1] - places[j][1]);
    plot.addEventListener("focusin", (event) => { const mark = event.target.closest(".mark"); if (mark) show(mark); });
    plot.addEventListener("focusout", hide);
    plot.addEventListener("keydown", (event) => {
      const here = order.indexOf(marks.indexOf(event.target.closest(".mark")));
      const last = order.length - 1;
      const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") hide();
      if (here < 0 || to === undefined) return;
      event.preventDefault();
      const next = marks[order[Math.max(0, Math.min(to, last))]];
      event.target.closest(".mark").setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }
  // A focused mark may have been scrolled into view just now; what the pointer was on has moved away.
  addEventListener("scroll", () => { if (shown && shown === document.activeElement) place(shown); else hide(); }, { passive: true });
})();
