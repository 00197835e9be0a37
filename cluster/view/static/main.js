import { get } from './api.js'
import * as about from './about.js'
import * as cluster from './cluster.js'
import * as compare from './compare.js'
import * as curves from './curves.js'
import { h, number, replace } from './dom.js'
import * as evaluation from './evaluation.js'
import * as group from './group.js'
import * as groups from './groups.js'
import { address, go, here } from './router.js'
import { choose, chosenRuns, colour, isChosen, keep, learn, runs } from './state.js'

const PAGES = {
  curves: ['Curves', curves],
  groups: ['Groups', groups],
  group: ['', group],
  evaluation: ['Evaluation', evaluation],
  compare: ['Compare', compare],
  cluster: ['Cluster', cluster],
  about: ['Configuration', about]
}
const POLL_MILLISECONDS = 3000
const KEYS = [
  ['1 to 6', 'the pages'], ['j, k', 'the next and the previous group'], ['p', 'play or pause the recording'], ['/', 'search'], ['t', 'light or dark'], ['?', 'these keys']
]

const main = document.getElementById('content')
const status = document.getElementById('status')
let shown = { page: null, handle: {} }

function fail (error, polled = false) {
  status.textContent = error instanceof TypeError ? 'The server is not there; the page goes on when it is.' : error.message
  status.classList.add('error')
  status.dataset.polled = polled
}

function settle () {
  status.textContent = ''
  status.classList.remove('error')
}

// Each page has a box of its own, so that an answer that comes late goes nowhere.
function navigate () {
  const { page, parameters } = here()
  const name = page in PAGES ? page : 'curves'
  settle()
  pages(name, parameters)
  if (shown.page === name && shown.handle.keeps?.(parameters)) {
    wait(shown.handle.update())
    return
  }
  const before = shown.page
  shown.handle.leave?.()
  const [title, module] = PAGES[name]
  document.title = `${title || 'Group'} · Auricle`
  const box = h('div', { 'data-page': name })
  replace(main, box)
  shown = { page: name, handle: module.render(box, parameters) }
  wait(shown.handle.ready)
  if (before !== null && before !== name) main.focus({ preventScroll: true })
}

async function wait (ready) {
  main.setAttribute('aria-busy', 'true')
  try {
    await ready
  } catch (error) {
    fail(error)
  }
  main.setAttribute('aria-busy', 'false')
}

function pages (current, { run }) {
  replace(document.getElementById('pages'), Object.entries(PAGES).filter(([, [title]]) => title).map(([name, [title]]) =>
    h('a', { href: address(name, { run }), 'aria-current': name === current || (current === 'group' && name === 'groups') ? 'page' : null }, title)))
}

function list () {
  const box = document.getElementById('runs')
  const states = runs.map(run => {
    const state = run.written ? 'running' : run.finished ? 'finished' : 'stopped'
    return h('label', { class: 'run', title: run.path },
      h('input', { type: 'checkbox', checked: isChosen(run.name), onchange: event => { choose(run.name, event.target.checked); navigate() } }),
      h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: colour(run.name) } }),
      `${run.name} `, h('span', { class: 'note' }, `${state}, step ${number(run.step)} of ${number(run.max_steps)}`))
  })
  const focused = [...box.querySelectorAll('input')].indexOf(document.activeElement)
  replace(box, states)
  if (focused >= 0) box.querySelectorAll('input')[focused]?.focus()
}

async function poll () {
  try {
    const before = runs.map(run => run.name)
    const changed = learn(await get('runs'))
    const gone = before.some(name => !changed.has(name))
    if (status.dataset.polled === 'true') settle()
    if (gone || [...changed.values()].some(parts => parts.length > 0)) list()
    const looked = new Set([...chosenRuns().map(run => run.name), here().parameters.run])
    const watched = shown.handle.watches ?? []
    if (shown.page === null) navigate()
    else if (gone || [...changed].some(([name, parts]) => looked.has(name) && parts.some(part => watched.includes(part)))) await shown.handle.update()
  } catch (error) {
    fail(error, true)
  }
  setTimeout(poll, POLL_MILLISECONDS)
}

function switchTheme () {
  const theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'
  document.documentElement.dataset.theme = theme
  keep({ theme })
  list()
  shown.handle.redraw?.()
}

function help () {
  const dialog = document.getElementById('help')
  replace(dialog, h('h2', { id: 'help-title' }, 'Keys'),
    h('dl', {}, KEYS.map(([key, what]) => h('div', {}, h('dt', {}, h('kbd', {}, key)), h('dd', {}, what)))),
    h('form', { method: 'dialog' }, h('button', {}, 'Close')))
  dialog.showModal()
}

document.addEventListener('keydown', event => {
  const typing = event.target.matches('input:not([type=checkbox]), textarea, select')
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.getElementById('help').open) return
  const names = Object.keys(PAGES).filter(name => PAGES[name][0])
  const keys = {
    '?': help,
    t: switchTheme,
    ...Object.fromEntries(names.map((name, place) => [String(place + 1), () => go(name, { run: here().parameters.run })])),
    ...shown.handle.keys
  }
  if (!(event.key in keys)) return
  event.preventDefault()
  keys[event.key]()
})
document.getElementById('skip').addEventListener('click', event => { event.preventDefault(); main.focus() })
document.getElementById('theme').addEventListener('click', switchTheme)
document.getElementById('keys').addEventListener('click', help)
addEventListener('hashchange', navigate)
poll()
