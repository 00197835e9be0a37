// Runs before the page is drawn, so that it never flashes in the other theme.
(function () {
  let kept = null
  try {
    kept = JSON.parse(localStorage.getItem('auricle') ?? '{}').theme ?? null
  } catch (error) {
    kept = null // the browser keeps nothing: the system's theme it is
  }
  const dark = kept === null ? matchMedia('(prefers-color-scheme: dark)').matches : kept === 'dark'
  document.documentElement.dataset.theme = dark ? 'dark' : 'light'
})()
