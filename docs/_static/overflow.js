// What scrolls sideways must be reachable by keyboard: give it a tab stop, only then.
const wide = "div.math-lines, .output_html, .text_html, .pst-scrollable-table-container";
const mark = () => {
  for (const box of document.querySelectorAll(wide)) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
mark();
window.addEventListener("resize", mark);
