// Elements are made by these functions alone, and text only ever becomes a text node: nothing that a run holds is read
// as markup.

import { address } from './router.js'

export function h (tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children)
}

export function svg (tag, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children)
}

function fill (element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else if (name === 'style') for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one)
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...flat(children))
  return element
}

export function replace (element, ...children) {
  element.replaceChildren(...flat(children))
}

function flat (children) {
  return children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false)
}

export function table (caption, header, rows, { hidden = false, ...attributes } = {}) {
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h('table', attributes,
      h('caption', { class: hidden ? 'hidden' : null }, caption),
      h('thead', {}, h('tr', {}, header.map(one => h('th', { scope: 'col' }, one)))),
      h('tbody', {}, rows.map(row => h('tr', {}, row.map((cell, place) =>
        place === 0 ? h('th', { scope: 'row' }, cell) : h('td', { 'data-label': header[place] }, cell)))))))
}

export function select (label, options, value, changed) {
  return h('label', {}, label,
    h('select', { onchange: event => changed(event.target.value) },
      options.map(([name, text]) => h('option', { value: name, selected: name === value }, text))))
}

export function form (...children) {
  return h('form', { class: 'controls', onsubmit: event => event.preventDefault() }, children)
}

// What leads through a list that is shown in parts.
export function parts (page, asked, total, count) {
  const offset = Number(asked.offset)
  const link = (text, rel, to) => h('a', { href: address(page, { ...asked, offset: to }), rel }, text)
  return h('nav', { class: 'pages', 'aria-label': 'Parts of the list' },
    offset > 0 && link('Previous', 'prev', Math.max(offset - count, 0)),
    total > 0 && h('span', {}, `${number(offset + 1)} to ${number(Math.min(offset + count, total))}`),
    offset + count < total && link('Next', 'next', offset + count))
}

// A property of the theme that is chosen.
export function style (name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

export function lineColour (place) {
  return style(`--line-${place % 8}`)
}

export function share (value) {
  return value === null || value === undefined ? '–' : `${(100 * value).toFixed(1)}%`
}

export function interval (pair) {
  return pair ? ` [${share(pair[0])}, ${share(pair[1])}]` : ''
}

export function number (value, digits = 3) {
  if (value === null || value === undefined) return '–'
  if (typeof value !== 'number') return String(value)
  if (Number.isInteger(value)) return value.toLocaleString('en')
  const size = Math.abs(value)
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : value.toFixed(digits)
}

export function signed (value) {
  return value === null || value === undefined ? '–' : `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(2)}`
}

export function later (call, milliseconds = 250) {
  let timer = null
  const delayed = (...values) => {
    clearTimeout(timer)
    timer = setTimeout(() => call(...values), milliseconds)
  }
  delayed.cancel = () => clearTimeout(timer)
  return delayed
}

// Fetches, and then shows, unless the page was left meanwhile or asked again: answers may come back in another order.
export function loader (box, fetched, shown) {
  let turn = 0
  return async () => {
    const mine = ++turn
    const told = await fetched()
    if (mine !== turn || !box.isConnected) return
    const focused = keyOf(document.activeElement)
    await shown(told)
    if (focused !== null && !box.contains(document.activeElement)) focusOn(box, focused)
  }
}

// What tells an element from the others on its page when the page is made anew.
function keyOf (element) {
  if (element === null || element === document.body) return null
  return element.id || element.getAttribute('href') || element.closest('label')?.firstChild?.textContent || element.textContent
}

function focusOn (box, key) {
  const found = [...box.querySelectorAll('a, button, input, select, [tabindex]')].find(element => keyOf(element) === key)
  found?.focus({ preventScroll: true })
}
