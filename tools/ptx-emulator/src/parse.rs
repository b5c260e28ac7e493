//! Tokens to the shape of a PTX text. Grammar of PTX ISA 8, as nvcc and clang write it.

use crate::{
    ast::{Base, Function, Initial, Instruction, Operand, Space, Statement, Text, Variable},
    lexer::{Kind, Token, error, tokens},
    report::LoadError,
};

type Parsed<T> = Result<T, LoadError>;

/// Scopes inside scopes deeper than this are refused, so that no text overflows the stack.
const DEEPEST: usize = 64;

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token<'t>>,
    at: usize,
    files: Vec<(u32, String)>,
    source: (u32, u32),
    depth: usize,
}

/// Parses a whole text.
pub(crate) fn parse(text: &str) -> Parsed<Text<'_>> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, files: Vec::new(), source: (0, 0), depth: 0 };
    let mut whole = Text::default();
    while let Some(token) = parser.peek() {
        let Kind::Word(word) = token else { return Err(parser.unexpected("a directive")) };
        match word {
            ".version" => {
                parser.at += 1;
                whole.version = parser.slice_of_token();
            }
            ".target" => {
                parser.at += 1;
                whole.target = parser.word()?;
                while parser.eat(b',') {
                    parser.word()?;
                }
            }
            ".address_size" => {
                parser.at += 1;
                if parser.integer()? != 64 {
                    return Err(error(parser.line(), "only 64-bit addresses are supported"));
                }
            }
            ".file" => parser.file(),
            ".loc" => parser.location(),
            ".section" => parser.section()?,
            ".pragma" | ".alias" => parser.skip_statement(),
            _ => parser.definition(&mut whole)?,
        }
    }
    if whole.version.is_empty() || whole.target.is_empty() {
        return Err(error(1, "not a PTX text: .version or .target is missing"));
    }
    let most = parser.files.iter().map(|(i, _)| *i).max().unwrap_or(0).min(4096);
    whole.files = vec![String::new(); most as usize + 1];
    for (index, name) in std::mem::take(&mut parser.files) {
        if let Some(place) = whole.files.get_mut(index as usize) {
            *place = name;
        }
    }
    Ok(whole)
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<Kind<'t>> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(1, |t| t.line)
    }

    fn slice_of_token(&mut self) -> &'t str {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token.and_then(|t| self.text.get(t.start..t.end)).unwrap_or_default()
    }

    fn unexpected(&self, wanted: &str) -> LoadError {
        let found =
            self.tokens.get(self.at).and_then(|t| self.text.get(t.start..t.end)).unwrap_or("the end of the text");
        error(self.line(), format!("expected {wanted}, found {found}"))
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(Kind::Punctuation(byte));
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Parsed<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.unexpected(&format!("'{}'", byte as char))) }
    }

    fn word(&mut self) -> Parsed<&'t str> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn eat_word(&mut self, wanted: &str) -> bool {
        let there = self.peek() == Some(Kind::Word(wanted));
        self.at += usize::from(there);
        there
    }

    fn integer(&mut self) -> Parsed<u64> {
        match self.peek() {
            Some(Kind::Integer(value)) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.unexpected("a whole number")),
        }
    }

    fn small(&mut self) -> Parsed<u32> {
        let line = self.line();
        self.integer()?.try_into().map_err(|_| error(line, "a number past 2^32"))
    }

    /// Up to three numbers, the rest 1.
    fn triple(&mut self) -> Parsed<[u32; 3]> {
        let mut sizes = [self.small()?, 1, 1];
        for size in &mut sizes[1..] {
            if self.eat(b',') {
                *size = self.small()?;
            }
        }
        Ok(sizes)
    }

    fn skip_statement(&mut self) {
        while self.peek().is_some() && !self.eat(b';') {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn file(&mut self) {
        let line = self.line();
        let (mut index, mut name) = (None, None);
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            match self.peek() {
                Some(Kind::Integer(value)) if index.is_none() => index = u32::try_from(value).ok(),
                Some(Kind::Text(text)) => name = Some(text.rsplit('/').next().unwrap_or(text).to_owned()),
                _ => {}
            }
            self.at += 1;
        }
        if let (Some(index), Some(name)) = (index, name) {
            self.files.push((index, name));
        }
    }

    fn location(&mut self) {
        let numbers = |token: Option<&Token<'t>>| match token.map(|t| t.kind) {
            Some(Kind::Integer(value)) => u32::try_from(value).ok(),
            _ => None,
        };
        let file = numbers(self.tokens.get(self.at + 1));
        let line = numbers(self.tokens.get(self.at + 2));
        if let (Some(file), Some(line)) = (file, line) {
            self.source = (file, line);
        }
        self.skip_line();
    }

    fn section(&mut self) -> Parsed<()> {
        while self.peek().is_some() && self.peek() != Some(Kind::Punctuation(b'{')) {
            self.at += 1;
        }
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Some(Kind::Punctuation(b'{')) => depth += 1,
                Some(Kind::Punctuation(b'}')) => depth -= 1,
                None => return Err(self.unexpected("'}'")),
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    fn definition(&mut self, whole: &mut Text<'t>) -> Parsed<()> {
        let mut external = false;
        loop {
            match self.peek() {
                Some(Kind::Word(".extern")) => external = true,
                Some(Kind::Word(".visible" | ".weak" | ".common")) => {}
                Some(Kind::Word(".entry" | ".func")) => {
                    let function = self.function()?;
                    whole.functions.push(function);
                    return Ok(());
                }
                Some(Kind::Word(".global" | ".const" | ".shared")) => {
                    let variables = self.variables(external)?;
                    whole.variables.extend(variables);
                    return Ok(());
                }
                _ => return Err(self.unexpected("a function or a variable")),
            }
            self.at += 1;
        }
    }

    fn function(&mut self) -> Parsed<Function<'t>> {
        let line = self.line();
        let entry = self.word()? == ".entry";
        while self.eat_word(".attribute") {
            self.parenthesis()?;
        }
        let returns = if self.peek() == Some(Kind::Punctuation(b'(')) { self.params()? } else { Vec::new() };
        let name = self.word()?;
        let params = if self.peek() == Some(Kind::Punctuation(b'(')) { self.params()? } else { Vec::new() };
        let mut function = Function {
            entry,
            name,
            returns,
            params,
            body: None,
            max_threads: None,
            required_threads: None,
            cluster: None,
            line,
        };
        loop {
            match self.peek() {
                Some(Kind::Punctuation(b';')) => {
                    self.at += 1;
                    return Ok(function);
                }
                Some(Kind::Punctuation(b'{')) => {
                    self.at += 1;
                    function.body = Some(self.body()?);
                    return Ok(function);
                }
                Some(Kind::Word(word)) => {
                    self.at += 1;
                    match word {
                        ".maxntid" => function.max_threads = Some(self.triple()?),
                        ".reqntid" => function.required_threads = Some(self.triple()?),
                        ".reqnctapercluster" => function.cluster = Some(self.triple()?),
                        ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                            self.small()?;
                        }
                        ".noreturn" | ".explicitcluster" | ".blocksareclusters" => {}
                        ".pragma" => self.skip_statement(),
                        _ => return Err(error(self.line(), format!("unknown function directive {word}"))),
                    }
                }
                _ => return Err(self.unexpected("a body")),
            }
        }
    }

    fn parenthesis(&mut self) -> Parsed<()> {
        self.expect(b'(')?;
        while !self.eat(b')') {
            if self.peek().is_none() {
                return Err(self.unexpected("')'"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn params(&mut self) -> Parsed<Vec<Variable<'t>>> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        while !self.eat(b')') {
            params.push(self.variable(false)?);
            if !self.eat(b',') && self.peek() != Some(Kind::Punctuation(b')')) {
                return Err(self.unexpected("',' or ')'"));
            }
        }
        Ok(params)
    }

    fn variables(&mut self, external: bool) -> Parsed<Vec<Variable<'t>>> {
        let first = self.variable(external)?;
        let mut all = vec![first];
        while self.eat(b',') {
            let mut next = all[0].clone();
            next.bytes = u64::from(next.element_bytes);
            next.initial.clear();
            self.declarator(&mut next)?;
            all.push(next);
        }
        self.expect(b';')?;
        Ok(all)
    }

    /// From the space on, up to and without the semicolon or comma.
    fn variable(&mut self, external: bool) -> Parsed<Variable<'t>> {
        let line = self.line();
        let space = match self.word()? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            ".reg" => return Err(error(line, "register parameters of functions are not supported; use .param")),
            other => return Err(error(line, format!("unknown state space {other}"))),
        };
        let mut variable =
            Variable { space, external, name: "", element_bytes: 0, bytes: 0, align: 0, initial: Vec::new(), line };
        let mut lanes = 1;
        loop {
            let Some(Kind::Word(word)) = self.peek() else { return Err(self.unexpected("a type or a name")) };
            if !word.starts_with('.') {
                break;
            }
            self.at += 1;
            match word {
                ".align" => {
                    let align = self.small()?;
                    if variable.element_bytes == 0 {
                        variable.align = align;
                    }
                }
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".ptr" | ".global" | ".const" | ".shared" | ".local" => {}
                ".attribute" => self.parenthesis()?,
                _ => {
                    let Some(bytes) = type_bytes(word) else { return Err(error(line, format!("unknown type {word}"))) };
                    variable.element_bytes = bytes;
                }
            }
        }
        if variable.element_bytes == 0 {
            return Err(error(line, "a variable without a type"));
        }
        variable.bytes = u64::from(variable.element_bytes * lanes);
        variable.align = variable.align.max(variable.element_bytes * lanes);
        if !variable.align.is_power_of_two() || variable.align > 1 << 16 {
            return Err(error(line, "an alignment that is no power of two"));
        }
        self.declarator(&mut variable)?;
        Ok(variable)
    }

    /// Name, array bounds, initialiser.
    fn declarator(&mut self, variable: &mut Variable<'t>) -> Parsed<()> {
        variable.name = self.word()?;
        let mut open = false;
        while self.eat(b'[') {
            if self.eat(b']') {
                open = true;
                continue;
            }
            let count = self.integer()?;
            let whole = variable.bytes.checked_mul(count).filter(|b| *b < 1 << 34);
            variable.bytes = whole.ok_or_else(|| error(self.line(), "a variable past 16 GiB"))?;
            self.expect(b']')?;
        }
        if self.eat(b'=') {
            let depth = 0;
            self.initialiser(variable, depth)?;
            if open {
                variable.bytes *= variable.initial.len() as u64;
            }
        } else if open {
            variable.bytes = 0;
        }
        Ok(())
    }

    fn initialiser(&mut self, variable: &mut Variable<'t>, depth: usize) -> Parsed<()> {
        if depth > DEEPEST {
            return Err(error(self.line(), "an initialiser nested too deep"));
        }
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initialiser(variable, depth + 1)?;
                if !self.eat(b',') && self.peek() != Some(Kind::Punctuation(b'}')) {
                    return Err(self.unexpected("',' or '}'"));
                }
            }
            return Ok(());
        }
        let negative = self.eat(b'-');
        let element = match self.peek() {
            Some(Kind::Integer(value)) => {
                self.at += 1;
                Initial::Bits(if negative { value.wrapping_neg() } else { value })
            }
            Some(Kind::Single(bits)) => {
                self.at += 1;
                Initial::Single(bits ^ u32::from(negative) << 31)
            }
            Some(Kind::Double(bits)) => {
                self.at += 1;
                Initial::Double(bits ^ u64::from(negative) << 63)
            }
            Some(Kind::Word(mut name)) => {
                self.at += 1;
                if name == "generic" {
                    self.expect(b'(')?;
                    name = self.word()?;
                    self.expect(b')')?;
                }
                let addend = self.addend()?;
                Initial::Address(name, addend)
            }
            _ => return Err(self.unexpected("a value")),
        };
        variable.initial.push(element);
        Ok(())
    }

    /// `+ 4`, `- 4`, `+-4`, or nothing.
    fn addend(&mut self) -> Parsed<i64> {
        let mut total = 0i64;
        loop {
            let sign = if self.eat(b'+') {
                if self.eat(b'-') { -1 } else { 1 }
            } else if self.eat(b'-') {
                -1
            } else {
                return Ok(total);
            };
            total = total.wrapping_add((self.integer()? as i64).wrapping_mul(sign));
        }
    }

    /// Statements up to the closing brace.
    fn body(&mut self) -> Parsed<Vec<Statement<'t>>> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(error(self.line(), "scopes nested too deep"));
        }
        let mut found = Vec::new();
        loop {
            match self.peek() {
                None => return Err(self.unexpected("'}'")),
                Some(Kind::Punctuation(b'}')) => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(found);
                }
                Some(Kind::Punctuation(b'{')) => {
                    self.at += 1;
                    let scope = self.body()?;
                    found.push(Statement::Scope(scope));
                }
                Some(Kind::Punctuation(b';')) => self.at += 1,
                Some(Kind::Punctuation(b'@')) => found.push(Statement::Instruction(self.instruction()?)),
                Some(Kind::Word(word)) => match word {
                    ".loc" => self.location(),
                    ".file" => self.file(),
                    ".pragma" => self.skip_statement(),
                    ".reg" => self.registers(&mut found)?,
                    ".shared" | ".local" | ".param" | ".global" | ".const" => {
                        found.extend(self.variables(false)?.into_iter().map(Statement::Variable));
                    }
                    ".extern" => {
                        self.at += 1;
                        found.extend(self.variables(true)?.into_iter().map(Statement::Variable));
                    }
                    _ if word.starts_with('.') => {
                        return Err(error(self.line(), format!("unknown directive {word}")));
                    }
                    _ if self.tokens.get(self.at + 1).map(|t| t.kind) == Some(Kind::Punctuation(b':')) => {
                        self.at += 2;
                        self.label(word, &mut found)?;
                    }
                    _ => found.push(Statement::Instruction(self.instruction()?)),
                },
                Some(_) => return Err(self.unexpected("a statement")),
            }
        }
    }

    fn label(&mut self, name: &'t str, found: &mut Vec<Statement<'t>>) -> Parsed<()> {
        if self.eat_word(".branchtargets") {
            let mut targets = vec![self.word()?];
            while self.eat(b',') {
                targets.push(self.word()?);
            }
            self.expect(b';')?;
            found.push(Statement::Targets(name, targets));
        } else if matches!(self.peek(), Some(Kind::Word(".callprototype" | ".calltargets"))) {
            // Calls through a register are told apart by the functions there are.
            self.skip_statement();
        } else {
            found.push(Statement::Label(name));
        }
        Ok(())
    }

    fn registers(&mut self, found: &mut Vec<Statement<'t>>) -> Parsed<()> {
        self.at += 1;
        let kind = self.word()?;
        loop {
            let name = self.word()?;
            let mut count = None;
            if self.eat(b'<') {
                let line = self.line();
                let number = self.small()?;
                if number > 1 << 20 {
                    return Err(error(line, "more than a million registers"));
                }
                count = Some(number);
                self.expect(b'>')?;
            }
            found.push(Statement::Registers(kind, name, count));
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn instruction(&mut self) -> Parsed<Instruction<'t>> {
        let first = self.at;
        let mut guard = None;
        if self.eat(b'@') {
            let negate = self.eat(b'!');
            guard = Some((self.word()?, negate));
        }
        let line = self.line();
        let opcode = self.word()?;
        let mut operands = Vec::new();
        if !self.eat(b';') {
            loop {
                operands.push(self.operand()?);
                if self.eat(b';') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        let span = (self.tokens.get(first), self.tokens.get(self.at - 1));
        let text = match span {
            (Some(start), Some(end)) => self.text.get(start.start..end.end).unwrap_or_default(),
            _ => "",
        };
        Ok(Instruction { guard, parts: opcode.split('.').collect(), operands, line, source: self.source, text })
    }

    fn list(&mut self, close: u8) -> Parsed<Vec<Operand<'t>>> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(error(self.line(), "operands nested too deep"));
        }
        let mut found = Vec::new();
        while !self.eat(close) {
            found.push(self.operand()?);
            if !self.eat(b',') && self.peek() != Some(Kind::Punctuation(close)) {
                return Err(self.unexpected("','"));
            }
        }
        self.depth -= 1;
        Ok(found)
    }

    fn operand(&mut self) -> Parsed<Operand<'t>> {
        if self.eat(b'{') {
            return Ok(Operand::Vector(self.list(b'}')?));
        }
        if self.eat(b'(') {
            return Ok(Operand::Arguments(self.list(b')')?));
        }
        if self.eat(b'[') {
            return self.address();
        }
        if self.eat(b'!') {
            return Ok(Operand::Not(self.word()?));
        }
        let negative = self.eat(b'-');
        match self.peek() {
            Some(Kind::Integer(value)) => {
                self.at += 1;
                let value = value as i64;
                Ok(Operand::Integer(if negative { value.wrapping_neg() } else { value }))
            }
            Some(Kind::Single(bits)) => {
                self.at += 1;
                Ok(Operand::Single(bits ^ u32::from(negative) << 31))
            }
            Some(Kind::Double(bits)) => {
                self.at += 1;
                Ok(Operand::Double(bits ^ u64::from(negative) << 63))
            }
            Some(Kind::Word(name)) if !negative => {
                self.at += 1;
                if self.eat(b'|') {
                    return Ok(Operand::Pair(name, self.word()?));
                }
                match self.peek() {
                    Some(Kind::Punctuation(b'+' | b'-')) => Ok(Operand::Offset(name, self.addend()?)),
                    _ => Ok(Operand::Name(name)),
                }
            }
            _ => Err(self.unexpected("an operand")),
        }
    }

    fn address(&mut self) -> Parsed<Operand<'t>> {
        let (base, mut offset) = match self.peek() {
            Some(Kind::Word(name)) => {
                self.at += 1;
                (Base::Name(name), 0)
            }
            Some(Kind::Integer(value)) => {
                self.at += 1;
                (Base::Absolute, value as i64)
            }
            _ => return Err(self.unexpected("an address")),
        };
        offset = self.addend()?.wrapping_add(offset);
        let more = if self.eat(b',') { self.list(b']')? } else { Vec::new() };
        if more.is_empty() {
            self.expect(b']')?;
        }
        Ok(Operand::Address { base, offset, more })
    }
}

/// Bytes of a fundamental type; predicates have none in memory.
pub(crate) fn type_bytes(word: &str) -> Option<u32> {
    Some(match word.trim_start_matches('.') {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 4,
        "b64" | "u64" | "s64" | "f64" | "f32x2" => 8,
        "b128" => 16,
        _ => return None,
    })
}
