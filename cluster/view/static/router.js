// Pages by the part of the address after #, with their parameters, so that going back and sending an address work.

export function here () {
  const [path, query] = location.hash.replace(/^#\//, '').split('?')
  return { page: path || 'curves', parameters: Object.fromEntries(new URLSearchParams(query ?? '')) }
}

export function address (page, parameters = {}) {
  const there = Object.entries(parameters).filter(([, value]) => value !== '' && value !== null && value !== undefined)
  const query = new URLSearchParams(there).toString()
  return `#/${page}${query ? `?${query}` : ''}`
}

export function go (page, parameters = {}, remember = true) {
  if (remember) location.hash = address(page, parameters)
  else {
    history.replaceState(null, '', address(page, parameters))
    dispatchEvent(new HashChangeEvent('hashchange'))
  }
}
