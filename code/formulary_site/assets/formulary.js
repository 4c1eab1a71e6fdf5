// Makes the copy buttons of formula cards work. Without scripts they stay hidden,
// and nothing else on a card needs a script.
(() => {
  const texts = {
    code: (card) => card.querySelector("pre").textContent.replace(/\n?$/, "\n"),
    latex: (card) => card.dataset.latex,
    runnable: async (_, button) => {
      const reply = await fetch(button.dataset.url);
      if (!reply.ok) throw new Error(`${button.dataset.url}: ${reply.status}`);
      return reply.text();
    },
  };

  const copy = async (button) => {
    const label = button.textContent;
    try {
      const text = texts[button.dataset.copy](button.closest(".fm"), button);
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
    if (!navigator.clipboard) return; // pages from file:// or plain http have none
    for (const button of document.querySelectorAll(".fm-copy[hidden]")) button.hidden = false;
  };
  // Material swaps pages without loading them when instant navigation is on
  if (window.document$) window.document$.subscribe(reveal);
  else reveal();
})();
