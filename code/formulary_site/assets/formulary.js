// Makes the copy buttons work. Without scripts they stay hidden, and nothing else here needs one.
(() => {
  const texts = {
    code: (button) =>
      button.closest(".fm-card, .highlight").querySelector("pre").textContent.replace(/\n*$/, "\n"),
    latex: (button) => button.closest(".fm").dataset.latex,
    runnable: async (button) => {
      const reply = await fetch(button.dataset.url);
      if (!reply.ok) throw new Error(`${button.dataset.url}: ${reply.status}`);
      return reply.text();
    },
  };

  const copy = async (button) => {
    const label = button.textContent;
    try {
      const text = texts[button.dataset.copy](button);
      if (text instanceof Promise && window.ClipboardItem && navigator.clipboard.write) {
        // Safari allows the clipboard only inside the click; a promised item keeps it open
        const blob = text.then((value) => new Blob([value], { type: "text/plain" }));
        await navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
      } else {
        await navigator.clipboard.writeText(await text);
      }
      button.textContent = "已复制";
    } catch (error) {
      console.warn(error);
      button.textContent = "复制失败";
    }
    setTimeout(() => (button.textContent = label), 1500);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".fm-copy");
    if (button) copy(button);
  });

  const reveal = () => {
    // Material leaves some landmarks without a name; those inside others are lists, no landmarks
    const unnamed = ".md-nav .md-nav:not([aria-label], [aria-labelledby]), .md-post__action";
    for (const nav of document.querySelectorAll(unnamed)) nav.setAttribute("role", "none");
    // What Material lets scroll sideways must scroll with the keyboard, too
    for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) box.tabIndex = 0;
    document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "搜索");
    for (const nav of document.querySelectorAll("nav.md-nav--primary:not([aria-label])"))
      nav.setAttribute("aria-label", "文章信息");
    if (!navigator.clipboard) return; // pages from file:// or plain http have none
    for (const block of document.querySelectorAll(".highlight:not(.fm-card .highlight)")) {
      if (block.querySelector(".fm-copy")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "fm-copy";
      button.dataset.copy = "code";
      button.textContent = "复制";
      block.append(button);
    }
    for (const button of document.querySelectorAll(".fm-copy[hidden]")) button.hidden = false;
  };
  // Material swaps pages without loading them when instant navigation is on
  if (window.document$) window.document$.subscribe(reveal);
  else reveal();
})();
