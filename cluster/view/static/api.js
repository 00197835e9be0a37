// What the server tells; an error carries the words that are to be shown.

export async function get (name, parameters = {}) {
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) query.append(key, one)
  }
  const answer = await fetch(`/api/${name}?${query}`)
  if (answer.ok) return answer.json()
  let detail = `the server answered ${answer.status}`
  try {
    const told = (await answer.json()).detail
    if (typeof told === 'string') detail = told
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error // an answer that is no JSON has no more to tell
  }
  throw new Error(detail)
}

export function clip (form, parameters) {
  return `/api/clip/${form}?${new URLSearchParams(parameters)}`
}
