//! `payonce payment`: the output of `GET /payment` and `GET /payment/{transaction_id}`, for operators.

use clap::{Subcommand, value_parser};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use super::{accounts::choose_account, connect, error::CommandError, print};
use crate::{
    config::Settings,
    db,
    ids::PaymentId,
    payments::{
        self,
        list::{Cursor, DEFAULT_LIMIT, Listing, MAX_LIMIT},
        payment::Payment,
        user_id::UserId,
    },
};

/// Commands for payments.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum PaymentCommand {
    /// List payments, newest first, one page at a time
    List {
        /// Account by name or id; required where there are several
        #[arg(long)]
        account: Option<String>,
        /// Only payments of this user
        #[arg(long, value_parser = user_id)]
        user: Option<UserId>,
        /// Length of the page
        #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = value_parser!(u8).range(1..=i64::from(MAX_LIMIT)))]
        limit: u8,
        /// Continue after a page with its next_cursor
        #[arg(long, value_parser = cursor)]
        cursor: Option<Cursor>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one payment, with its refunds
    Show {
        /// Its id
        transaction_id: PaymentId,
        /// Account by name or id; required where there are several
        #[arg(long)]
        account: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn user_id(text: &str) -> Result<UserId, &'static str> {
    UserId::parse(text.to_owned()).ok_or(UserId::EXPECTED)
}

fn cursor(text: &str) -> Result<Cursor, &'static str> {
    Cursor::parse(text).ok_or("not the next_cursor of a page")
}

/// Runs a command for payments.
pub(super) async fn payment(
    command: &PaymentCommand,
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    let mut conn = connect(options).await?;
    db::prepare_to_read(&mut conn, settings.request_deadline / 2).await?;
    match command {
        PaymentCommand::List { account, user, limit, cursor, json } => {
            let listing = Listing { user_id: user.clone(), limit: *limit, cursor: *cursor };
            list(&mut conn, account.as_deref(), &listing, *json).await?;
        }
        PaymentCommand::Show { transaction_id, account, json } => {
            show(&mut conn, account.as_deref(), *transaction_id, *json).await?;
        }
    }
    Ok(conn.close().await?)
}

async fn list(
    conn: &mut PgConnection,
    account: Option<&str>,
    listing: &Listing,
    json: bool,
) -> Result<(), CommandError> {
    let account_id = choose_account(conn, account).await?.account_id;
    let page = payments::list(conn, account_id, listing).await?;
    if json {
        return Ok(print::json(&page)?);
    }
    let rows = page.payments.into_iter().map(|payment| {
        [
            payment.transaction_id.to_string(),
            print::seconds(payment.created_at),
            print::units(payment.amount, &payment.currency),
            print::units(payment.refunded, &payment.currency),
            payment.currency,
            payment.user_id,
        ]
    });
    print::table(["ID", "CREATED", "AMOUNT", "REFUNDED", "CURRENCY", "USER"], rows)?;
    if let Some(next) = page.next_cursor {
        print::text(&format!("\nThere are more: the same command with --cursor {next}"))?;
    }
    Ok(())
}

async fn show(
    conn: &mut PgConnection,
    account: Option<&str>,
    transaction_id: PaymentId,
    json: bool,
) -> Result<(), CommandError> {
    let account = choose_account(conn, account).await?;
    let payment = payments::find(conn, account.account_id, transaction_id).await?;
    let payment =
        payment.ok_or(CommandError::NoPayment { account: account.name, transaction_id })?;
    if json {
        return Ok(print::json(&payment)?);
    }
    let Payment { status, user_id, amount, currency, refunded, refunds, created_at, .. } = payment;
    print::members([
        ("id", Some(transaction_id.to_string())),
        ("status", Some(status)),
        ("user", Some(user_id)),
        ("amount", Some(format!("{} {currency}", print::units(amount, &currency)))),
        ("refunded", Some(format!("{} {currency}", print::units(refunded, &currency)))),
        ("created", Some(print::seconds(created_at))),
    ])?;
    if !refunds.is_empty() {
        print::text("")?;
        let rows = refunds.into_iter().map(|refund| {
            [
                refund.refund_id.to_string(),
                print::seconds(refund.created_at),
                print::units(refund.amount, &currency),
            ]
        });
        print::table(["REFUND", "CREATED", "AMOUNT"], rows)?;
    }
    Ok(())
}
